//! `cargo xtask deb`: a Debian package of what this checkout builds.
//!
//! ```text
//! release programs, units and settings (virshlike/dist), manual pages and completions (`man`)
//!        -> a tree as it is installed -> dpkg-deb -> target/deb/vm_VERSION_amd64.deb
//! ```
//!
//! The package is called vm-manager: Debian has a `vm`, a mail reader. What it does on a host at
//! install, upgrade, removal and purge is in `virshlike/dist/debian` and tested in the lab
//! (`tests/tests/lab_systemd.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{lab, man, packages, project};

/// Name of the package; free in Debian.
const PACKAGE: &str = "vm-manager";

#[derive(clap::Args)]
pub struct DebArgs {
    /// Install missing packages without asking
    #[arg(long)]
    yes: bool,
    /// Version of the package; that of the workspace when absent
    #[arg(long)]
    version: Option<String>,
    /// Do not build vm and vmm first
    #[arg(long)]
    no_build: bool,
}

/// Builds the package and says where it is.
pub fn run(args: &DebArgs) -> Result<ExitCode> {
    packages::need(&["dpkg"], args.yes)?;
    if !args.no_build {
        lab::build_programs()?;
    }
    let version = args.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    println!("{}", build(version)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the package from the built programs; its path.
pub fn build(version: &str) -> Result<PathBuf> {
    if !is_version(version) {
        bail!(
            "--version {version}: a version has digits, letters and .+~, and begins with a digit"
        );
    }
    let folder = project::target().join("deb");
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("cannot remove an old tree")?;
    }
    let tree = Tree(tree);
    programs(&tree)?;
    host_files(&tree)?;
    documents(&tree, version, &folder)?;
    let size = kib(&tree.0)?;
    control(&tree, version, size)?;
    let package = folder.join(format!("vm_{version}_amd64.deb"));
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "--build"]);
    command.arg(&tree.0).arg(&package);
    project::output(&mut command)?;
    Ok(package)
}

fn is_version(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(allowed)
}

/// A folder that becomes `/`.
struct Tree(PathBuf);

impl Tree {
    fn write(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {name}"))?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(path)
    }

    fn copy(&self, from: &Path, name: &str, mode: u32) -> Result<PathBuf> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(name, mode, content)
    }

    /// A file as Debian wants documents: compressed, the same at every build.
    fn compressed(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.write(name, 0o644, content)?;
        project::run(Command::new("gzip").args(["-9n", "--force"]).arg(path))
    }
}

fn programs(tree: &Tree) -> Result<()> {
    let built = project::target().join("release");
    for (name, place) in [("vm", "usr/bin/vm"), ("vmm", "usr/libexec/vm/vmm")] {
        let path = tree.copy(&built.join(name), place, 0o755)?;
        project::run(Command::new("strip").arg("--strip-unneeded").arg(path))?;
    }
    Ok(())
}

fn dist() -> PathBuf {
    project::root().join("virshlike/dist")
}

fn host_files(tree: &Tree) -> Result<()> {
    for unit in ["vm-autostart", "vm-guests", "vm-daemon"] {
        let name = format!("{unit}.service");
        tree.copy(
            &dist().join(&name),
            &format!("usr/lib/systemd/system/{name}"),
            0o644,
        )?;
    }
    let tmpfiles = dist().join("vm.tmpfiles");
    tree.copy(&tmpfiles, "usr/lib/tmpfiles.d/vm.conf", 0o644)?;
    let network = dist().join("default-network.xml");
    tree.copy(&network, "usr/share/vm/networks/default.xml", 0o644)?;
    let settings = dist().join("vm-guests.env");
    tree.copy(&settings, "etc/default/vm-guests", 0o644)?;
    Ok(())
}

fn documents(tree: &Tree, version: &str, work: &Path) -> Result<()> {
    let pages = work.join("pages");
    if pages.exists() {
        fs::remove_dir_all(&pages).context("cannot remove old pages")?;
    }
    man::write(&pages)?;
    for page in entries(&pages.join("man/man1"))? {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read(&page).with_context(|| format!("cannot read {}", page.display()))?;
        tree.compressed(&format!("usr/share/man/man1/{name}"), text)?;
    }
    for (shell, place) in [
        ("bash", "bash-completion/completions"),
        ("zsh", "zsh/vendor-completions"),
        ("fish", "fish/vendor_completions.d"),
    ] {
        for script in entries(&pages.join("completions").join(shell))? {
            let name = script.file_name().unwrap_or_default().to_string_lossy();
            tree.copy(&script, &format!("usr/share/{place}/{name}"), 0o644)?;
        }
    }
    let read = |name: &str| {
        let path = project::root().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let doc = format!("usr/share/doc/{PACKAGE}");
    tree.write(
        &format!("{doc}/copyright"),
        0o644,
        copyright(&read("LICENSE")?),
    )?;
    if version.contains('-') {
        tree.compressed(&format!("{doc}/changelog"), read("CHANGELOG.md")?)?;
        tree.compressed(&format!("{doc}/changelog.Debian"), changelog(version))?;
    } else {
        tree.compressed(&format!("{doc}/changelog"), changelog(version))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut paths: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    if paths.is_empty() {
        bail!("{} is empty", folder.display());
    }
    Ok(paths)
}

fn copyright(licence: &str) -> String {
    let mut text = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: vm\n\nFiles: *\nCopyright: the vm maintainers\nLicense: Expat\n",
    );
    for line in licence.lines() {
        // An empty line would end the field.
        let line = if line.trim().is_empty() { "." } else { line };
        text.push_str(&format!(" {line}\n"));
    }
    text
}

fn changelog(version: &str) -> String {
    format!(
        "{PACKAGE} ({version}) unstable; urgency=medium\n\n  * Built from its own checkout; what \
         changed is told in CHANGELOG.md there.\n\n -- vm maintainers <maintainers@vm.invalid>  \
         Thu, 01 Jan 2026 00:00:00 +0000\n"
    )
}

/// Size of a tree in KiB, as dpkg counts it.
fn kib(tree: &Path) -> Result<u64> {
    let text = project::output(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(tree),
    )?;
    let size = text.split_whitespace().next().unwrap_or_default();
    size.parse().context("du printed no size")
}

fn control(tree: &Tree, version: &str, size: u64) -> Result<()> {
    let mut newest = (2, 0);
    for name in ["usr/bin/vm", "usr/libexec/vm/vmm"] {
        let bytes = fs::read(tree.0.join(name)).context("cannot read a program")?;
        newest = newest.max(glibc(&bytes));
    }
    let source = dist().join("debian");
    let text = fs::read_to_string(source.join("control")).context("cannot read control")?;
    let text = text
        .replace("@VERSION@", version)
        .replace("@SIZE@", &size.to_string())
        .replace("@GLIBC@", &format!("{}.{}", newest.0, newest.1));
    let sums = project::output(
        Command::new("sh")
            .current_dir(&tree.0)
            .args(["-c", "find usr -type f | LC_ALL=C sort | xargs md5sum"]),
    )?;
    tree.write("DEBIAN/control", 0o644, text)?;
    tree.write("DEBIAN/md5sums", 0o644, sums)?;
    tree.copy(&source.join("conffiles"), "DEBIAN/conffiles", 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.copy(&source.join(script), &format!("DEBIAN/{script}"), 0o755)?;
    }
    Ok(())
}

/// The newest version of the C library's symbols that a program asks for, as in `GLIBC_2.34`.
fn glibc(program: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_";
    program
        .windows(MARK.len() + 8)
        .filter_map(|window| {
            let version = window.strip_prefix(MARK)?;
            let end = version.iter().position(|byte| *byte == 0)?;
            let text = std::str::from_utf8(version.get(..end)?).ok()?;
            let mut numbers = text.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .max()
        .unwrap_or((2, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_decides() {
        let program = b"\0GLIBC_2.2.5\0x\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0and some more\0";
        assert_eq!(glibc(program), (2, 34));
        assert_eq!(glibc(b"nothing"), (2, 0));
    }

    #[test]
    fn versions_are_what_dpkg_takes() {
        assert!(is_version("0.1.0") && is_version("0.1.0~rc1-1+b2"));
        assert!(!is_version("") && !is_version("v1") && !is_version("1 2") && !is_version("1/2"));
    }

    #[test]
    fn a_licence_keeps_its_paragraphs() {
        let text = copyright("MIT\n\nPermission\n");
        assert!(text.ends_with(" MIT\n .\n Permission\n"), "{text}");
    }
}
