//! `vm image serve` with QEMU's tools, and others where they are installed, as its clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}

fn run(dir: &Path, tool: &str, arguments: &[&str]) -> Output {
    Command::new(tool)
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("a tool runs")
}

/// The kernel takes a killed process's requests down behind its back, and their locks with them.
fn check_when_unlocked(dir: &Path, image: &str) -> Output {
    let mut tries = 0;
    loop {
        let check = run(dir, "qemu-img", &["check", image]);
        if tries == 200 || !String::from_utf8_lossy(&check.stderr).contains("lock") {
            return check;
        }
        tries += 1;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn must(dir: &Path, tool: &str, arguments: &[&str]) -> String {
    let output = run(dir, tool, arguments);
    assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn vm(dir: &Path, arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["image"].iter().chain(arguments).copied().collect();
    run(dir, env!("CARGO_BIN_EXE_vm"), &arguments)
}

/// A server, ended with the test.
struct Server {
    child: Child,
    /// Where it says that it is.
    uri: String,
}

impl Server {
    fn start(dir: &Path, arguments: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vm"))
            .args(["image", "serve"])
            .args(arguments)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("vm runs");
        let mut line = String::new();
        let said = child.stdout.take().expect("its output");
        BufReader::new(said).read_line(&mut line).expect("a line");
        let uri = line.split(" on ").nth(1).unwrap_or_default().trim();
        assert!(uri.starts_with("nbd"), "it said {line:?}");
        Server {
            uri: uri.to_string(),
            child,
        }
    }

    fn on_socket(dir: &Path, more: &[&str]) -> Server {
        let socket = dir.join("s");
        let mut arguments = vec!["-k", socket.to_str().expect("a path")];
        arguments.extend(more);
        Server::start(dir, &arguments)
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        let status = self.child.wait().expect("an end");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk with data, holes and zeroes, as a qcow2 image and as the raw file that it should equal.
fn disk(dir: &Path, options: &str) {
    must(
        dir,
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-o", options, "d.qcow2", "20M",
        ],
    );
    must(
        dir,
        "qemu-img",
        &["create", "-q", "-f", "raw", "d.raw", "20M"],
    );
    for (format, file) in [("qcow2", "d.qcow2"), ("raw", "d.raw")] {
        let commands = [
            "write -P 1 0 100k",
            "write -P 2 1M 3M",
            "write -z 2M 512k",
            "write -P 3 19M 1M",
        ];
        let mut arguments = vec!["-f", format];
        arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
        arguments.push(file);
        must(dir, "qemu-io", &arguments);
    }
}

#[test]
fn qemus_tools_read_and_write_an_image_through_it() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    for (options, more) in [
        ("cluster_size=64k", &["-t", "-e", "0"][..]),
        (
            "cluster_size=4k",
            &["-t", "--cache", "none", "--aio", "threads"],
        ),
        (
            "cluster_size=64k,extended_l2=on",
            &["-t", "-x", "disk", "-D", "a disk"],
        ),
        ("compat=0.10", &["-t", "--cache", "writethrough"]),
    ] {
        disk(dir, options);
        let mut arguments = more.to_vec();
        arguments.extend(["-f", "qcow2", "d.qcow2"]);
        let server = Server::on_socket(dir, &arguments);
        let uri = server.uri.as_str();
        must(
            dir,
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", uri, "d.raw"],
        );
        for (target, file) in [(uri, uri), ("d.raw", "d.raw")] {
            let commands = [
                "write -P 7 3k 70k",
                "write -P 8 -f 1500k 900k",
                "write -z 3M 300k",
                "write -z -u 200k 1M",
                "discard 5M 1M",
                "aio_write -P 9 8M 64k",
                "aio_write -P 10 9M 64k",
                "aio_write -P 11 8500k 3k",
                "aio_flush",
                "read -P 9 8M 64k",
                "flush",
            ];
            let mut arguments = vec!["-f", "raw"];
            arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
            arguments.push(file);
            let said = must(dir, "qemu-io", &arguments);
            assert!(!said.contains("failed"), "{target}: {said}");
        }
        must(
            dir,
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", uri, "d.raw"],
        );
        // What reads as zeroes is told without being read.
        let map = must(
            dir,
            "qemu-img",
            &["map", "-f", "raw", "--output", "json", uri],
        );
        assert!(map.contains("\"zero\": true, \"data\": false"), "{map}");
        assert!(map.contains("\"zero\": false, \"data\": true"), "{map}");
        server.stop();
        assert!(!dir.join("s").exists(), "the socket is left behind");
        must(dir, "qemu-img", &["check", "-q", "d.qcow2"]);
        must(
            dir,
            "qemu-img",
            &["compare", "-f", "qcow2", "-F", "raw", "d.qcow2", "d.raw"],
        );
    }
}

#[test]
fn a_raw_image_on_tcp_and_its_bounds() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    disk(dir, "cluster_size=64k");
    let server = Server::start(
        dir,
        &["-p", "0", "-t", "-r", "-o", "1M", "-f", "raw", "d.raw"],
    );
    let uri = server.uri.as_str();
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    must(
        dir,
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 2 0 1M", uri],
    );
    let info = must(dir, "qemu-img", &["info", "--output", "json", uri]);
    assert!(info.contains("\"virtual-size\": 19922944"), "{info}");
    // Another process writes: the image is locked against it, and the export refuses it.
    let write = run(dir, "qemu-io", &["-f", "raw", "-c", "write 0 4k", uri]);
    assert!(!write.status.success(), "{write:?}");
    let locked = vm(dir, &["resize", "-f", "raw", "d.raw", "30M"]);
    assert!(!locked.status.success(), "{locked:?}");
    server.stop();
    for (arguments, word) in [
        (&["serve", "-b", "0.0.0.0", "d.raw"][..], "loopback"),
        (&["serve", "--tls-creds", "x", "d.raw"], "TLS"),
        (&["serve", "--cache", "fast", "d.raw"], "writeback"),
        (
            &["serve", "--detect-zeroes=unmap", "--discard=off", "d.raw"],
            "discard",
        ),
        (&["serve", "-o", "21M", "d.raw"], "beyond"),
        (&["serve", "-k", "d.qcow2", "d.raw"], "in use"),
    ] {
        let output = vm(dir, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(word),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn other_clients_copy_over_several_connections() {
    if !have("qemu-img") || !have("nbdcopy") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    disk(dir, "cluster_size=64k");
    let server = Server::on_socket(dir, &["-t", "-e", "0", "-f", "qcow2", "d.qcow2"]);
    must(dir, "nbdcopy", &[&server.uri, "copy.raw"]);
    must(
        dir,
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", "copy.raw", "d.raw"],
    );
    // And back, over what is there.
    must(
        dir,
        "qemu-io",
        &["-f", "raw", "-c", "write -P 99 0 20M", "copy.raw"],
    );
    must(dir, "nbdcopy", &["copy.raw", &server.uri]);
    server.stop();
    must(dir, "qemu-img", &["check", "-q", "d.qcow2"]);
    must(
        dir,
        "qemu-img",
        &["compare", "-f", "qcow2", "-F", "raw", "d.qcow2", "copy.raw"],
    );
}

#[test]
fn without_persistence_it_ends_with_its_last_client() {
    if !have("qemu-img") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    disk(dir, "cluster_size=64k");
    let mut server = Server::on_socket(dir, &["-f", "qcow2", "d.qcow2"]);
    must(
        dir,
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &server.uri, "d.raw"],
    );
    assert!(server.child.wait().expect("an end").success());
}

/// Says something and reads until the server has enough.
fn talk(dir: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(dir.join("s")).expect("a connection");
    // It may have had enough before all was said.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    heard
}

fn option(number: u32, len: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn malformed_clients_and_sudden_ends_hold_up_nobody() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    disk(dir, "cluster_size=64k");
    let server = Server::on_socket(dir, &["-t", "-e", "0", "-f", "qcow2", "d.qcow2"]);
    let flags = 3u32.to_be_bytes();
    let with_flags = |more: &[u8]| [&flags, more].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        with_flags(&option(7, u32::MAX, b"x")),
        with_flags(&option(7, 6, &[0xff; 6])),
        with_flags(&option(10, 8, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
        with_flags(&option(1, 3, b"abc")),
        with_flags(&[0; 4096]),
    ] {
        assert!(talk(dir, &bytes).starts_with(b"NBDMAGICIHAVEOPT"));
    }
    // A request for much, without a reader; and half a write.
    let mut begin = with_flags(&option(1, 0, &[]));
    for cookie in 0..400u64 {
        begin.extend(0x2560_9513u32.to_be_bytes());
        begin.extend([0, 0, 0, 0]);
        begin.extend(cookie.to_be_bytes());
        begin.extend(0u64.to_be_bytes());
        begin.extend((20u32 << 20).to_be_bytes());
    }
    let mut greedy = UnixStream::connect(dir.join("s")).expect("a connection");
    greedy.write_all(&begin).expect("a request");
    let mut half = with_flags(&option(1, 0, &[]));
    half.extend(0x2560_9513u32.to_be_bytes());
    half.extend([0, 0, 0, 1]);
    half.extend([0; 16]);
    half.extend((1u32 << 20).to_be_bytes());
    half.extend([9; 1000]);
    talk(dir, &half);
    // Somebody else is served meanwhile, and the server has not taken much memory.
    let uri = server.uri.as_str();
    must(
        dir,
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", uri, "d.raw"],
    );
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .expect("a number");
    assert!(peak < 200 << 10, "{peak} KiB for one greedy client");
    drop(greedy);
    server.stop();
    must(dir, "qemu-img", &["check", "-q", "d.qcow2"]);
}

#[test]
fn a_killed_server_leaves_a_sound_image_with_what_was_flushed() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    for (round, options) in ["cluster_size=4k", "cluster_size=64k,extended_l2=on"]
        .into_iter()
        .enumerate()
    {
        must(
            dir,
            "qemu-img",
            &[
                "create", "-q", "-f", "qcow2", "-o", options, "k.qcow2", "64M",
            ],
        );
        let mut server = Server::on_socket(dir, &["-t", "-e", "0", "-f", "qcow2", "k.qcow2"]);
        must(
            dir,
            "qemu-io",
            &[
                "-f",
                "raw",
                "-c",
                "write -P 5 1M 2M",
                "-c",
                "flush",
                &server.uri,
            ],
        );
        // Writes that allocate, with a flush now and then, until the server is gone.
        let mut load = Command::new("qemu-img")
            .args([
                "bench", "-w", "-f", "raw", "-c", "100000", "-d", "16", "-s", "4096",
            ])
            .args([
                "-S",
                "20480",
                "-o",
                "4M",
                "--flush-interval",
                "50",
                &server.uri,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a load");
        // Some of the load has arrived when the file has grown.
        let len = || std::fs::metadata(dir.join("k.qcow2")).map_or(0, |meta| meta.len());
        let wanted = (4 << 20) + (round as u64) * (2 << 20);
        while len() < wanted {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        server.child.kill().expect("a kill");
        server.child.wait().expect("an end");
        assert!(
            !load.wait().expect("an end").success(),
            "the load outlived its server"
        );
        drop(server);
        let check = check_when_unlocked(dir, "k.qcow2");
        // 3 is leaked clusters, which a crash may leave.
        assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}");
        let ours = vm(dir, &["check", "k.qcow2"]);
        assert!(matches!(ours.status.code(), Some(0 | 3)), "{ours:?}");
        must(
            dir,
            "qemu-io",
            &["-f", "qcow2", "-c", "read -P 5 1M 2M", "k.qcow2"],
        );
        // The socket that it left is no hindrance.
        let server = Server::on_socket(dir, &["-t", "-f", "qcow2", "k.qcow2"]);
        must(
            dir,
            "qemu-io",
            &["-f", "raw", "-c", "read -P 5 1M 2M", &server.uri],
        );
        server.stop();
    }
}
