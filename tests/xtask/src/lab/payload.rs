//! What one run brings into the lab host: the script, the built programs, and its settings.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Lab, Run, recipe};
use crate::project;

const INIT: &str = include_str!("host-init.sh");
const LABSH: &str = include_str!("labsh");

/// Builds `vm` and `vmm` as they are released.
pub fn build_programs() -> Result<()> {
    let words = ["build", "--release", "--package=vmm", "--package=virshlike"];
    let mut cargo = project::cargo();
    cargo.args(words);
    // Some minutes the first time: a person sees how far it is.
    if !std::io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    project::run(&mut cargo)
}

/// A folder as the lab host will see it under `/lab/run`.
pub struct Payload {
    folder: PathBuf,
}

impl Payload {
    /// Collects the files.
    pub fn assemble(_lab: &Lab, run: &Run, folder: &Path) -> Result<Self> {
        let tree = folder.join("payload");
        let payload = Self {
            folder: tree.clone(),
        };
        for name in ["bin", "libexec/vm", "files"] {
            let path = tree.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let built = project::target().join("release");
        copy(&built.join("vm"), &tree.join("bin/vm"))?;
        copy(&built.join("vmm"), &tree.join("libexec/vm/vmm"))?;
        std::os::unix::fs::symlink("../libexec/vm/vmm", tree.join("bin/vmm"))
            .context("cannot make the link to vmm")?;
        let guest = ::tests::guest::build().context("the test guest cannot be built")?;
        copy(&guest, &tree.join("test-guest"))?;
        copy(&run.script, &tree.join("script"))?;
        for path in &run.options.with {
            let mut command = Command::new("cp");
            project::run(command.arg("-a").arg(path).arg(tree.join("files")))?;
        }
        write(&tree.join("init"), INIT)?;
        write(&tree.join("start"), &start(&run.arguments))?;
        write(&tree.join("settings"), &settings(run))?;
        let labsh = tree.join("bin/labsh");
        write(&labsh, LABSH)?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&labsh, executable).context("cannot make labsh executable")?;
        Ok(payload)
    }

    /// The folder as a disk image.
    pub fn image(&self, folder: &Path) -> Result<PathBuf> {
        let image = folder.join("payload.img");
        recipe::make_image(&self.folder, &image, "1G", &folder.join("payload.log"))?;
        Ok(image)
    }

    /// What a script finds in its environment when it runs on this machine.
    pub fn environment(&self, lab: &Lab) -> Vec<(String, String)> {
        let show = |path: PathBuf| path.display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = show(self.folder.join("bin"));
        let usual = [
            ("PATH", format!("{bin}:{path}:/usr/sbin:/sbin")),
            ("LAB_HOST", "kvm01".into()),
            ("LAB_KERNEL", show(lab.file("kernel"))),
            ("LAB_INITRD", show(lab.file("guest.cpio"))),
            ("LAB_DISK", show(lab.file("guest.qcow2"))),
            ("LAB_GUEST", show(self.folder.join("test-guest"))),
            ("LAB_FILES", show(self.folder.join("files"))),
            ("VM_TEST_VMM", show(self.folder.join("libexec/vm/vmm"))),
            ("VM_TEST_VM", show(self.folder.join("bin/vm"))),
            ("VM_TEST_GUEST", show(self.folder.join("test-guest"))),
        ];
        let usual = usual.map(|(name, value)| (name.to_owned(), value));
        let others = lab.other_kernels().into_iter();
        let others = others.map(|(name, path)| (name, show(path)));
        usual.into_iter().chain(others).collect()
    }
}

/// The line that starts the script with its arguments.
fn start(arguments: &[String]) -> String {
    let quoted = arguments
        .iter()
        .map(|word| format!(" '{}'", word.replace('\'', r"'\''")));
    format!("exec bash /lab/run/script{}\n", quoted.collect::<String>())
}

fn settings(run: &Run) -> String {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row.max(1), size.ws_col.max(1)));
    let term = std::env::var("TERM").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    let term = if !term.is_empty() && term.chars().all(plain) {
        term
    } else {
        "linux".into()
    };
    let word = |yes| if yes { "yes" } else { "no" };
    let (yes, nfs, systemd) = (word(terminal), word(run.nfs), word(run.systemd));
    format!(
        "LAB_HOSTS={}\nLAB_NFS={nfs}\nLAB_SYSTEMD={systemd}\nLAB_LIMIT={}\nLAB_TERMINAL={yes}\nLAB_ROWS={rows}\n\
         LAB_COLUMNS={columns}\nLAB_TERM={term}\n",
        run.hosts, run.options.time_limit
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_script_as_they_are() {
        let line = start(&["a b".into(), "it's".into()]);
        assert_eq!(line, "exec bash /lab/run/script 'a b' 'it'\\''s'\n");
    }
}
