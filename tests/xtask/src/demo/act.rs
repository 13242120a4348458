//! The `vm` commands of the demonstration, printed and run as a person would type them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ::tests::serial::Serial;
use anyhow::{Context, Result, bail};

use crate::project;

const NAME: &str = "debian";
/// What a stock Debian may take from power on to its login prompt under emulation.
const BOOT: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(120);

/// Where and how.
#[derive(clap::Args)]
pub struct ActArgs {
    /// The folder with debian.xml and the disk; the store is made in it
    #[arg(long)]
    pub folder: PathBuf,
    /// The vm program
    #[arg(long)]
    pub vm: PathBuf,
    /// Log in, look around and shut down instead of handing over the console
    #[arg(long)]
    pub batch: bool,
    /// This is a lab host
    #[arg(long)]
    pub lab: bool,
}

/// Defines, starts and shows the guest.
pub fn act(args: &ActArgs) -> Result<ExitCode> {
    let vm = Vm {
        program: args.vm.clone(),
        store: args.folder.join("store"),
    };
    vm.forget_earlier_guest();
    vm.typed(&[
        "define",
        &args.folder.join("debian.xml").display().to_string(),
    ])?;
    vm.typed(&["start", NAME])?;
    if args.batch {
        let done = look_around(&vm);
        if done.is_err() {
            vm.forget_earlier_guest();
        }
        done?;
    } else {
        println!("\nThe console comes next: log in as root (no password). Ctrl+] leaves it.");
        vm.typed(&["console", NAME])?;
    }
    say_what_next(args, &vm)
}

/// The `vm` command on the demonstration's own store.
struct Vm {
    program: PathBuf,
    store: PathBuf,
}

impl Vm {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("VM_STORE_ROOT", &self.store);
        command
    }

    /// Prints the command line and runs it on our terminal.
    fn typed(&self, words: &[&str]) -> Result<()> {
        println!("\n$ vm {}", words.join(" "));
        project::run(&mut self.command(words))
    }

    fn asked(&self, words: &[&str]) -> Result<String> {
        project::output(&mut self.command(words))
    }

    /// Takes away what an earlier run may have left.
    fn forget_earlier_guest(&self) {
        for words in [["destroy", NAME], ["undefine", NAME]] {
            // Mostly there is none, which is no news.
            drop(
                self.command(&words)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status(),
            );
        }
    }

    /// `vm console` on a terminal of its own, which `script` makes.
    fn console(&self) -> Result<Console> {
        println!("\n$ vm console {NAME}");
        let line = format!("'{}' console {NAME}", self.program.display());
        let mut child = Command::new("script")
            .args([
                "--quiet",
                "--flush",
                "--return",
                "--command",
                &line,
                "/dev/null",
            ])
            .env("VM_STORE_ROOT", &self.store)
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run script (package bsdutils)")?;
        let output = child.stdout.take().context("script has no output")?;
        Ok(Console {
            said: Serial::collect(output),
            child,
        })
    }
}

/// A console that is typed into by us.
struct Console {
    child: Child,
    said: Serial,
}

impl Console {
    fn expect(&mut self, text: &str, time: Duration) -> Result<String> {
        let passed = self
            .said
            .expect_within(text, time)
            .context("on the guest's console")?;
        print!("{}", passed.replace('\r', ""));
        std::io::stdout().flush().context("cannot write")?;
        Ok(passed)
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("the console is closed")?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .context("cannot type")
    }

    /// Types a command and returns what it printed.
    fn ask(&mut self, command: &str) -> Result<String> {
        // The mark is typed in two parts, so that its echo is not taken for it.
        self.send(&format!("{command}; echo do''ne=$?\r"))?;
        let text = self.expect("done=", ANSWER)?;
        let status = self.expect("\n", ANSWER)?;
        if status.trim() != "0" {
            bail!("{command} failed in the guest (status {})", status.trim());
        }
        Ok(text)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Logs in, checks that this is the guest that was defined, and shuts it down.
fn look_around(vm: &Vm) -> Result<()> {
    let mut console = vm.console()?;
    console.expect("login: ", BOOT)?;
    console.send("root\r")?;
    console.expect("# ", ANSWER)?;
    let kernel = console.ask("uname -sr")?;
    if !kernel.contains("Linux") {
        bail!("the guest is not a Linux: {kernel}");
    }
    console.ask("test \"$(findmnt -no SOURCE /)\" = /dev/vda")?;
    console.ask("echo written by the guest > /root/witness && sync")?;
    // Ctrl+] leaves the console; the guest runs on.
    console.send("\x1d")?;
    let left = Instant::now();
    while console.child.try_wait().context("cannot wait")?.is_none() {
        if left.elapsed() > ANSWER {
            bail!("vm console does not leave on Ctrl+]");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!();
    vm.typed(&["list"])?;
    let state = vm.asked(&["domstate", NAME])?;
    if state.trim() != "running" {
        bail!("after the console was left the guest is {}", state.trim());
    }
    vm.typed(&["shutdown", NAME])
        .or_else(|_| power_off_from_inside(vm))?;
    wait_for_shut_off(vm)?;
    vm.typed(&["list", "--all"])?;
    vm.typed(&["undefine", NAME])
}

/// Where `vm shutdown` is not there yet: as the guest's own administrator would.
fn power_off_from_inside(vm: &Vm) -> Result<()> {
    println!("(so the guest powers itself off)");
    let mut console = vm.console()?;
    console.send("\rpoweroff\r")?;
    wait_for_shut_off(vm)
}

fn wait_for_shut_off(vm: &Vm) -> Result<()> {
    let started = Instant::now();
    loop {
        let state = vm.asked(&["domstate", NAME])?;
        if state.trim() == "shut off" {
            println!("The guest is off.");
            return Ok(());
        }
        if started.elapsed() > ANSWER {
            bail!("the guest does not go off: it is {}", state.trim());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn say_what_next(args: &ActArgs, vm: &Vm) -> Result<ExitCode> {
    if args.batch {
        println!("\nThe demonstration is complete: defined, started, logged in, shut down.");
        return Ok(ExitCode::SUCCESS);
    }
    let state = vm.asked(&["domstate", NAME]).unwrap_or_default();
    println!("\nThe guest is {}. What to try next:", state.trim());
    for line in [
        "vm list --all",
        "vm dominfo debian",
        "vm dumpxml debian",
        "vm suspend debian; vm resume debian",
        "vm console debian",
        "vm destroy debian; vm undefine debian",
    ] {
        println!("  {line}");
    }
    if args.lab {
        println!("This shell is on the lab host; leaving it ends the lab host and the guest.");
        shell(vm, args)?;
        println!("To remove all of it: rm -r target/demo; the lab: cargo xtask lab clean");
    } else {
        let bin = args.vm.parent().unwrap_or(Path::new(".")).display();
        println!("Before that, in your shell:");
        println!(
            "  export VM_STORE_ROOT={} PATH={bin}:$PATH",
            vm.store.display()
        );
        println!(
            "To remove all of it: vm destroy debian; rm -r {}",
            args.folder.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn shell(vm: &Vm, args: &ActArgs) -> Result<()> {
    let bin = args.vm.parent().unwrap_or(Path::new("/"));
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.arg("-i").env("VM_STORE_ROOT", &vm.store);
    command.env("PATH", format!("{}:{path}", bin.display()));
    command.status().context("cannot run bash")?;
    Ok(())
}
