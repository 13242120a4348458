//! What the lab is made of, and building it when the cache does not have it.
//!
//! ```text
//! root/         the lab host as a folder (mmdebstrap)     -> root.img     its root disk
//! guest/        a Debian guest as a folder, then removed  -> guest.qcow2  LAB_DISK
//! emulator/     QEMU that emulates the lab host, run from this folder
//! kernel        Debian's cloud kernel, for both           -> host.cpio, guest.cpio
//! kernel-NAME   other stock kernels, for guests only      -> guest-NAME.cpio
//! shared.img    kernels, their guest*.cpio and guest.qcow2, which every lab host sees read-only
//! ```
//!
//! The folder's name is a checksum of everything that goes in, so a changed recipe is a new folder;
//! it gets its final name only when it is complete, so an interrupted build leaves nothing behind.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{initrd, tools};
use crate::{packages, project};

/// The release of Debian for the lab host and its guest.
const RELEASE: &str = "bookworm";

/// What the lab host has on top of Debian's essential packages.
const HOST_PACKAGES: &[&str] = &[
    "mount",
    "kmod",
    "procps",
    "util-linux",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "nftables",
    "dnsmasq-base",
    "passt",
    "socat",
    "strace",
    "busybox-static",
    "nfs-kernel-server",
    "nfs-common",
    // for comparison
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    // what makes bootable disks for guests
    "grub-common",
    "grub-pc-bin",
    "fdisk",
    "xorriso",
    "libvirt-clients",
    "libxml2-utils",
    "openssh-server",
    "expect",
    // for runs that ask for a host with systemd
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
];

/// The emulator of lab hosts comes from the release's backports: with the release's own, 7.2, an
/// emulated processor halts for ever in about one of eight runs of scenarios with interrupt windows.
const EMULATOR_PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
];

/// What the guest's disk has: enough for a login prompt, the power button and the host's questions.
const GUEST_PACKAGES: &[&str] = &[
    "systemd-sysv",
    "udev",
    "dbus",
    "libpam-systemd",
    "login",
    "passwd",
    "mount",
    "util-linux",
    "kmod",
    "e2fsprogs",
    "iproute2",
    "procps",
    "qemu-guest-agent",
];

/// Left out of both: nobody reads manuals in the lab.
const UNPACK_NOT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
];

/// Fetches the newest cloud kernel that the release has, and lets lab hosts reach each other.
const HOST_HOOK: &str = include_str!("host-hook.sh");
/// Gives the guest a name, a serial getty and root without a password.
const GUEST_HOOK: &str = include_str!("guest-hook.sh");

/// Unpacks more kernels for guests.
const KERNELS_HOOK: &str = include_str!("kernels-hook.sh");

/// Kernels beside the cloud kernel of the release: what a name in the lab stands for, and the package.
/// `LAB_KERNEL_NAME` and `LAB_INITRD_NAME` are where a script finds them.
const KERNELS: &[(&str, &str)] = &[
    ("generic", "linux-image-amd64"),
    ("newer", "linux-image-6.12-cloud-amd64"),
    ("newer-generic", "linux-image-6.12-amd64"),
];

/// Folder of the emulator.
const EMULATOR: &str = "emulator";

/// Bytes of the lab host's root disk; the image file is sparse.
const ROOT_SIZE: &str = "6G";
/// Bytes of the guest's disk.
const GUEST_SIZE: &str = "2G";

/// A complete lab.
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// Finds the lab in the cache, or builds it.
    pub fn prepare(yes: bool) -> Result<Self> {
        let cache = cache();
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::create(cache.join("lock")).context("cannot make the lab's lock")?;
        lock.lock().context("cannot lock the lab's cache")?;
        let folder = cache.join(format!("{RELEASE}-{:016x}", checksum()));
        if !folder.exists() {
            packages::need(&["mmdebstrap", "e2fsprogs"], yes)?;
            build(&cache, &folder)?;
            forget_older(&cache, &folder);
        }
        Ok(Self { folder })
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the lab by name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a script finds of the other kernels in its environment: names and paths.
    pub fn other_kernels(&self) -> Vec<(String, PathBuf)> {
        let found = KERNELS
            .iter()
            .filter(|(name, _)| self.file(&format!("kernel-{name}")).is_file());
        found
            .flat_map(|(name, _)| {
                let word = name.to_uppercase().replace('-', "_");
                [
                    (
                        format!("LAB_KERNEL_{word}"),
                        self.file(&format!("kernel-{name}")),
                    ),
                    (
                        format!("LAB_INITRD_{word}"),
                        self.file(&format!("guest-{name}.cpio")),
                    ),
                ]
            })
            .collect()
    }

    /// Programs of the lab host.
    pub fn tools(&self) -> tools::Tools {
        tools::Tools::new(self.folder.join("root"))
    }

    /// The emulator that lab hosts run on.
    pub fn emulator(&self) -> tools::Tools {
        tools::Tools::new(self.folder.join(EMULATOR))
    }

    /// A new folder for one run.
    pub fn run_folder(&self) -> Result<PathBuf> {
        let folder = cache().join("runs").join(std::process::id().to_string());
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot remove an old run's folder")?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// The cache: VM_LAB_CACHE where several checkouts share one, else in the build folder.
fn cache() -> PathBuf {
    std::env::var_os("VM_LAB_CACHE").map_or_else(|| project::target().join("lab"), PathBuf::from)
}

/// Removes labs of older recipes, unless other checkouts may still use them.
fn forget_older(cache: &Path, newest: &Path) {
    if std::env::var_os("VM_LAB_CACHE").is_some() {
        return;
    }
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_lab = entry.file_name().to_string_lossy().starts_with(RELEASE);
        if is_lab && path != newest {
            // It only takes space: the next build tries again.
            drop(fs::remove_dir_all(path));
        }
    }
}

/// Removes the cache.
pub fn clean() -> Result<()> {
    let cache = cache();
    match fs::remove_dir_all(&cache) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", cache.display()))
        }
        _ => Ok(()),
    }
}

fn checksum() -> u64 {
    let mut hasher = DefaultHasher::new();
    (RELEASE, HOST_PACKAGES, GUEST_PACKAGES, UNPACK_NOT).hash(&mut hasher);
    EMULATOR_PACKAGES.hash(&mut hasher);
    (HOST_HOOK, GUEST_HOOK, ROOT_SIZE, GUEST_SIZE).hash(&mut hasher);
    (KERNELS_HOOK, KERNELS).hash(&mut hasher);
    initrd::ingredients().hash(&mut hasher);
    hasher.finish()
}

fn build(cache: &Path, folder: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the lab is built with mmdebstrap as root; run this once as root: cargo xtask lab build"
        );
    }
    let started = Instant::now();
    let work = cache.join("building");
    if work.exists() {
        fs::remove_dir_all(&work).context("cannot remove an unfinished build")?;
    }
    fs::create_dir_all(&work).context("cannot make the build folder")?;
    let log = work.join("build.log");
    let step = |what: &str| {
        eprintln!(
            "lab: {what} ({} s so far; log: {})",
            started.elapsed().as_secs(),
            log.display()
        );
    };
    eprintln!("lab: it is built once, from Debian's packages; that takes some minutes");
    step("the lab host");
    let wanted = kernels_wanted();
    bootstrap(
        &work.join("root"),
        HOST_PACKAGES,
        &[HOST_HOOK, &format!("wanted='{wanted}'\n{KERNELS_HOOK}")],
        &log,
    )?;
    let tools = tools::Tools::new(work.join("root"));
    fs::rename(work.join("root/kernel"), work.join("kernel")).context("the lab has no kernel")?;
    initrd::build(&work.join("root"), &work)?;
    let mut shared = vec![
        "kernel".to_owned(),
        "guest.cpio".into(),
        "guest.qcow2".into(),
    ];
    shared.extend(other_kernels(&work)?);
    step("the lab host's disk");
    make_image(&work.join("root"), &work.join("root.img"), ROOT_SIZE, &log)?;
    step("the emulator");
    emulator(&work, &log)?;
    step("a Debian guest");
    bootstrap(&work.join("guest"), GUEST_PACKAGES, &[GUEST_HOOK], &log)?;
    step("the guest's disk");
    make_image(
        &work.join("guest"),
        &work.join("guest.img"),
        GUEST_SIZE,
        &log,
    )?;
    fs::remove_dir_all(work.join("guest")).context("cannot remove the guest's folder")?;
    let convert = ["convert", "-O", "qcow2", "guest.img", "guest.qcow2"];
    logged(
        tools.command("qemu-img").args(convert).current_dir(&work),
        &log,
    )?;
    fs::remove_file(work.join("guest.img")).context("cannot remove the raw disk")?;
    share(&work, &shared, &log)?;
    fs::rename(&work, folder).context("cannot give the finished lab its name")?;
    eprintln!("lab: built in {} s", started.elapsed().as_secs());
    Ok(())
}

/// The kernels as the hook wants them: words NAME=PACKAGE.
fn kernels_wanted() -> String {
    let words = KERNELS
        .iter()
        .map(|(name, package)| format!("{name}={package}"));
    words.collect::<Vec<_>>().join(" ")
}

/// Takes the other kernels out of the lab host's root, with a RAM disk for each, and returns the names of
/// what was made.
fn other_kernels(work: &Path) -> Result<Vec<String>> {
    let unpacked = work.join("root/kernels");
    let mut made = Vec::new();
    for (name, package) in KERNELS {
        let tree = unpacked.join(name);
        if !tree.join("kernel").is_file() {
            eprintln!("lab: {package} is not to be had: no kernel '{name}'");
            continue;
        }
        let (kernel, initrd) = (format!("kernel-{name}"), format!("guest-{name}.cpio"));
        fs::rename(tree.join("kernel"), work.join(&kernel)).context("no kernel")?;
        initrd::build_guest(&work.join("root"), &tree, &work.join(&initrd))?;
        made.extend([kernel, initrd]);
    }
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).context("cannot remove the unpacked kernels")?;
    }
    Ok(made)
}

/// Makes the image that every lab host sees.
fn share(work: &Path, files: &[String], log: &Path) -> Result<()> {
    let shared = work.join("shared");
    fs::create_dir(&shared).context("cannot make the shared folder")?;
    for name in files {
        fs::hard_link(work.join(name), shared.join(name)).with_context(|| format!("no {name}"))?;
    }
    make_image(&shared, &work.join("shared.img"), GUEST_SIZE, log)
}

fn bootstrap(to: &Path, packages: &[&str], hooks: &[&str], log: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=essential", "--mode=root"]);
    command.arg(format!("--include={}", packages.join(",")));
    command.arg("--aptopt=APT::Install-Recommends \"0\"");
    for pattern in UNPACK_NOT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for hook in hooks {
        command.arg(format!("--customize-hook={hook}"));
    }
    command.arg(RELEASE).arg(to);
    logged(&mut command, log)
}

/// Unpacks the emulator of the backports, from the mirror that this machine uses; where there is none,
/// the lab host's own QEMU is the emulator.
fn emulator(work: &Path, log: &Path) -> Result<()> {
    let folder = work.join(EMULATOR);
    let backports = format!("{RELEASE}-backports");
    if let Some(mirror) = mirror() {
        let packages: Vec<_> = EMULATOR_PACKAGES
            .iter()
            .map(|package| format!("{package}/{backports}"))
            .collect();
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=extract", "--mode=root"]);
        command.arg(format!("--include={}", packages.join(",")));
        command.arg("--aptopt=APT::Install-Recommends \"0\"");
        command.arg(RELEASE).arg(&folder);
        for suite in [RELEASE, &backports] {
            command.arg(format!("deb {mirror} {suite} main"));
        }
        if logged(&mut command, log).is_ok() {
            return Ok(());
        }
    }
    eprintln!("lab: no {backports} to be had: the release's own QEMU emulates, which may hang");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove an unfinished emulator")?;
    }
    std::os::unix::fs::symlink("root", &folder).context("cannot name the emulator")
}

/// Where this machine gets packages of the release from.
fn mirror() -> Option<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .arg(format!("Release: {RELEASE}"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(ToOwned::to_owned)
}

/// An ext4 file system with what is in `folder`.
pub fn make_image(folder: &Path, image: &Path, size: &str, log: &Path) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-m",
        "0",
    ]);
    // A journal in a throw-away file system only costs time.
    command
        .args(["-O", "^has_journal", "-d"])
        .arg(folder)
        .arg(image)
        .arg(size);
    // Where a person's PATH lacks the administrator's folders.
    command.env("PATH", search_path());
    logged(&mut command, log)
}

fn search_path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// Runs a command with its output in a log file, which is shown when it fails.
fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let name = project::describe(command)
        .chars()
        .take(200)
        .collect::<String>();
    let open = File::options().create(true).append(true).open(log);
    let file = open.with_context(|| format!("cannot write {}", log.display()))?;
    let second = file.try_clone().context("cannot share the log")?;
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(file)
        .stderr(second)
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(25)) {
            eprintln!("  | {line}");
        }
        bail!(
            "{name} failed ({status}); the whole log is {}",
            log.display()
        );
    }
    Ok(())
}
