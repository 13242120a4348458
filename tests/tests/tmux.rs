//! A console in tmux, as people use one: typed, seen, left, come back to.

use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tests::world::World;
use tests::{program, skip_unless};

/// A tmux server of its own.
struct Tmux<'w> {
    world: &'w World,
    socket: String,
}

impl<'w> Tmux<'w> {
    /// A session with a shell, whose environment knows the world's store.
    fn start(world: &'w World) -> Option<Self> {
        let socket = world.path("tmux").display().to_string();
        let tmux = Self { world, socket };
        let output = tmux.run(&[
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "env PS1='shell$ ' sh",
        ]);
        output?.status.success().then_some(tmux)
    }

    fn run(&self, words: &[&str]) -> Option<Output> {
        let mut command = Command::new("tmux");
        command
            .args(["-f", "/dev/null", "-S", &self.socket])
            .args(words);
        command
            .env("VM_STORE_ROOT", self.world.path("store"))
            .env("VM_VMM", program::vmm().expect("vmm"))
            .env("TERM", "xterm");
        command.output().ok()
    }

    /// Types text, or a key by its name.
    fn keys(&self, keys: &[&str]) {
        let words: Vec<_> = ["send-keys"].iter().chain(keys).copied().collect();
        assert!(
            self.run(&words)
                .is_some_and(|output| output.status.success())
        );
    }

    fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p"]).expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the screen shows the text so many times.
    #[track_caller]
    fn wait_for(&self, text: &str, times: usize) {
        let started = Instant::now();
        while self.screen().matches(text).count() < times {
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(!late, "no {times} times '{text}' on:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        drop(self.run(&["kill-server"]));
    }
}

#[test]
fn a_console_in_tmux_is_typed_into_left_and_entered_again() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("echo", "test=echo");
    world.ok(&["start", "echo"]);
    let Some(tmux) = Tmux::start(&world) else {
        return println!("skipped: no tmux");
    };
    let console = format!("{} console echo", program::vm().expect("vm").display());
    // What a screen shows ends at its last letter.
    tmux.wait_for("shell$", 1);
    tmux.keys(&[&console, "Enter"]);
    tmux.wait_for("ready", 1);
    tmux.keys(&["-l", "hello from tmux"]);
    // The guest answers in capitals; nothing of what is typed is echoed by the terminal.
    tmux.wait_for("HELLO FROM TMUX", 1);
    assert!(!tmux.screen().contains("hello from"), "{}", tmux.screen());
    tmux.keys(&["C-]"]);
    tmux.wait_for("shell$", 2);
    // The terminal is a person's again.
    tmux.keys(&["stty -a | grep -o ' icanon' ; echo is-''back", "Enter"]);
    tmux.wait_for("is-back", 1);
    tmux.wait_for(" icanon", 2);
    // A resize and a second visit: the last output is shown again.
    drop(tmux.run(&["resize-window", "-x", "100", "-y", "30"]));
    tmux.keys(&["clear", "Enter"]);
    tmux.keys(&[&console, "Enter"]);
    tmux.wait_for("HELLO FROM TMUX", 1);
    tmux.keys(&["-l", "again"]);
    tmux.wait_for("AGAIN", 1);
    assert_eq!(world.ok(&["-q", "domstate", "echo"]), "running\n");
    // A pane that is killed takes the viewer with it, and nothing else.
    drop(tmux);
    assert_eq!(world.ok(&["-q", "domstate", "echo"]), "running\n");
    let mut typed = tests::console::Console::open(&world, "echo");
    typed.send("free again");
    typed.wait_for("FREE AGAIN");
}
