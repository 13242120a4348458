//! The cells of the table: what is measured, and on what.
//!
//! Everything is prepared by QEMU's tools, so that both sides find the same bytes. Commands run in
//! the folder of the images, by a shell.

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// `bench`: requests per second, in thousands; so many requests.
    Requests(u64),
    /// Any other verb: milliseconds from its start to its end.
    Time,
    /// Requests by `qemu-img bench` to a server of the image: so many requests.
    Server(u64),
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Cell {
    pub name: String,
    pub work: Work,
    /// Done once, if the file is not there: (file, command).
    pub once: Vec<(&'static str, String)>,
    /// Done before every run.
    pub each: String,
    /// The words after the tool; for a server those of the client.
    pub arguments: String,
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// MiB of the image that `bench` cells use.
    pub disk: u64,
    /// MiB of the image that is converted.
    pub source: u64,
    /// Requests of a cell are divided by this.
    pub fewer: u64,
}

/// The images of `bench` cells: (name, format, file, made once or each time, command).
const IMAGES: [(&str, &str, &str, bool, &str); 7] = [
    (
        "raw",
        "raw",
        "b.raw",
        false,
        "qemu-img create -q -f raw -o preallocation=full b.raw {disk}M",
    ),
    (
        "qcow2",
        "qcow2",
        "b.full",
        false,
        "qemu-img create -q -f qcow2 -o preallocation=full b.full {disk}M",
    ),
    (
        "sparse raw",
        "raw",
        "b.new",
        true,
        "qemu-img create -q -f raw b.new {disk}M",
    ),
    (
        "new qcow2",
        "qcow2",
        "b.new",
        true,
        "qemu-img create -q -f qcow2 b.new {disk}M",
    ),
    (
        "new qcow2, subclusters",
        "qcow2",
        "b.new",
        true,
        "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k b.new {disk}M",
    ),
    (
        "qcow2 over a backing file",
        "qcow2",
        "b.new",
        true,
        "qemu-img create -q -f qcow2 -b b.full -F qcow2 b.new",
    ),
    (
        "qcow2 after a snapshot",
        "qcow2",
        "b.new",
        true,
        "cp --reflink=auto b.full b.new && qemu-img snapshot -c s b.new",
    ),
];

/// The cells, in the order of the table.
pub fn all(scale: Scale) -> Vec<Cell> {
    let mut cells = Vec::new();
    for depth in [1, 32] {
        for (image, write) in [
            ("raw", false),
            ("qcow2", false),
            ("raw", true),
            ("qcow2", true),
        ] {
            cells.push(requests(scale, image, write, "4k scattered", depth));
        }
    }
    for image in ["raw", "qcow2"] {
        cells.push(requests(scale, image, false, "64k in order", 32));
        cells.push(requests(scale, image, true, "64k in order", 32));
    }
    // What copies of clusters are made of.
    cells.push(requests(scale, "raw", false, "64k scattered", 32));
    cells.push(requests(scale, "raw", true, "64k scattered", 32));
    for depth in [1, 32] {
        cells.push(requests(scale, "sparse raw", true, "64k in order", depth));
        for image in ["new qcow2", "new qcow2, subclusters"] {
            for pattern in ["4k scattered", "4k in order", "64k in order"] {
                cells.push(requests(scale, image, true, pattern, depth));
            }
        }
    }
    for image in ["qcow2 over a backing file", "qcow2 after a snapshot"] {
        cells.push(requests(scale, image, true, "4k scattered", 32));
        cells.push(requests(scale, image, true, "64k in order", 32));
    }
    for image in ["raw", "qcow2"] {
        let mut cell = requests(scale, image, false, "4k scattered", 1);
        cell.name = format!("{image}: cached 4k reads, depth 1");
        cell.arguments = cell
            .arguments
            .replace("-t none -i io_uring", "-t writeback -i threads");
        cell.each = format!("cat {} > /dev/null", file_of(image));
        cells.push(cell);
    }
    cells.extend(whole(scale));
    cells.extend(servers(scale));
    cells
}

fn file_of(image: &str) -> &'static str {
    let found = IMAGES.iter().find(|made| made.0 == image);
    found.map_or("", |made| made.2)
}

/// A cell of `bench`, past the page cache.
fn requests(scale: Scale, image: &str, write: bool, pattern: &str, depth: u64) -> Cell {
    let (size, step, count) = match (pattern, depth) {
        ("4k scattered", 1) => ("4k", "1028k", 8000),
        ("4k scattered", _) => ("4k", "1028k", 30_000),
        ("4k in order", 1) => ("4k", "4k", 8000),
        ("4k in order", _) => ("4k", "4k", 30_000),
        ("64k scattered", _) => ("64k", "1088k", 24_000),
        (_, 1) => ("64k", "64k", 4000),
        // Of what is there already: a shorter run tells the disk's mood.
        _ if matches!(image, "raw" | "qcow2") => ("64k", "64k", 64_000),
        _ => ("64k", "64k", 8000),
    };
    let count = (count / scale.fewer).max(100);
    let made = IMAGES.iter().find(|made| made.0 == image);
    let (_, format, file, fresh, command) = made.copied().unwrap_or(IMAGES[0]);
    let command = command.replace("{disk}", &scale.disk.to_string());
    let full = IMAGES[1].4.replace("{disk}", &scale.disk.to_string());
    let mut once = vec![("b.full", full)];
    let mut each = "true".to_string();
    if fresh {
        each = format!("rm -f {file} && {command}");
    } else {
        once.push((file, command));
    }
    let verb = if write { "writes" } else { "reads" };
    let flag = if write { " -w" } else { "" };
    Cell {
        name: format!("{image}: {pattern} {verb}, depth {depth}"),
        work: Work::Requests(count),
        once,
        each,
        arguments: format!(
            "bench -c {count} -d {depth} -s {size} -S {step}{flag} -t none -i io_uring -f {format} \
             {file}"
        ),
    }
}

/// Verbs on whole images: (name, the file made once, what is done before, the words of the tool).
const VERBS: [(&str, &str, &str, &str); 21] = [
    ("create, 1 TiB", "", "rm -f out", "create -f qcow2 out 1T"),
    (
        "create, 10 GiB, metadata",
        "",
        "rm -f out",
        "create -f qcow2 -o preallocation=metadata out 10G",
    ),
    (
        "convert raw to raw",
        "",
        "{warm}",
        "convert -f raw -O raw src.raw out",
    ),
    (
        "convert raw to qcow2",
        "",
        "{warm}",
        "convert -f raw -O qcow2 src.raw out",
    ),
    (
        "convert raw to qcow2, past the page cache",
        "",
        "rm -f out",
        "convert -T none -t none -f raw -O qcow2 src.raw out",
    ),
    (
        "convert raw to qcow2, zlib",
        "",
        "{warm}",
        "convert -c -f raw -O qcow2 src.raw out",
    ),
    (
        "convert raw to qcow2, zstd",
        "",
        "{warm}",
        "convert -c -o compression_type=zstd -f raw -O qcow2 src.raw out",
    ),
    (
        "convert qcow2 to raw",
        "i.qcow2",
        "cat i.qcow2 > /dev/null; rm -f out",
        "convert -f qcow2 -O raw i.qcow2 out",
    ),
    (
        "convert zlib qcow2 to raw",
        "iz.qcow2",
        "cat iz.qcow2 > /dev/null; rm -f out",
        "convert -f qcow2 -O raw iz.qcow2 out",
    ),
    ("check", "i.qcow2", "{copy}", "check -f qcow2 w"),
    (
        "check, 64 GiB of metadata",
        "m.qcow2",
        "true",
        "check -f qcow2 m.qcow2",
    ),
    ("map", "i.qcow2", "{copy}", "map --output=json -f qcow2 w"),
    (
        "map, 64 GiB of metadata",
        "m.qcow2",
        "true",
        "map --output=json -f qcow2 m.qcow2",
    ),
    ("measure", "", "{warm}", "measure -O qcow2 -f raw src.raw"),
    (
        "compare",
        "i.qcow2",
        "cat src.raw i.qcow2 > /dev/null",
        "compare -f raw -F qcow2 src.raw i.qcow2",
    ),
    ("snapshot create", "i.qcow2", "{copy}", "snapshot -c s w"),
    ("snapshot apply", "i.qcow2", "{diverged}", "snapshot -a s w"),
    (
        "snapshot delete",
        "i.qcow2",
        "{diverged}",
        "snapshot -d s w",
    ),
    ("commit", "i.qcow2", "{over}", "commit -f qcow2 t"),
    (
        "rebase",
        "i.qcow2",
        "{other}",
        "rebase -f qcow2 -b o -F qcow2 t",
    ),
    (
        "resize, 100 GiB more",
        "i.qcow2",
        "{copy}",
        "resize -f qcow2 w +100G",
    ),
];

/// What the words in braces stand for; each may use those that follow.
const WORDS: [(&str, &str); 7] = [
    (
        "{other}",
        "{over} && rm -f o && qemu-img create -q -f qcow2 o {source}M && qemu-io -f qcow2 -c 'write \
         -q -P 3 {half}M {quarter}M' o > /dev/null",
    ),
    (
        "{over}",
        "rm -f t && {copy} && qemu-img create -q -f qcow2 -b w -F qcow2 t && qemu-io -f qcow2 -c \
         'write -q -P 9 {quarter}M {quarter}M' t > /dev/null",
    ),
    (
        "{diverged}",
        "{copy} && qemu-img snapshot -c s w && qemu-io -f qcow2 -c 'write -q -P 7 0 {quarter}M' w > \
         /dev/null",
    ),
    ("{copy}", "rm -f w && cp --reflink=auto i.qcow2 w"),
    ("{warm}", "cat src.raw > /dev/null; rm -f out"),
    (
        "i.qcow2.once",
        "qemu-img convert -f raw -O qcow2 src.raw i.qcow2",
    ),
    (
        "iz.qcow2.once",
        "qemu-img convert -c -m 8 -W -f raw -O qcow2 src.raw iz.qcow2",
    ),
];

/// Verbs on whole images.
fn whole(scale: Scale) -> Vec<Cell> {
    let expand = |text: &str| {
        let mut text = text.to_string();
        for (word, meaning) in WORDS {
            text = text.replace(word, meaning);
        }
        text.replace("{source}", &scale.source.to_string())
            .replace("{half}", &(scale.source / 2).to_string())
            .replace("{quarter}", &(scale.source / 4).to_string())
    };
    let cell = |(name, file, each, arguments): (&str, &'static str, &str, &str)| {
        let made = match file {
            "" => Vec::new(),
            "m.qcow2" => {
                let how = "qemu-img create -q -f qcow2 -o preallocation=metadata m.qcow2 64G";
                vec![(file, how.to_string())]
            }
            _ => vec![(file, expand(&format!("{file}.once")))],
        };
        Cell {
            name: name.to_string(),
            work: Work::Time,
            once: made,
            each: expand(each),
            arguments: arguments.to_string(),
        }
    };
    VERBS.into_iter().map(cell).collect()
}

/// The image behind a server, `qemu-img bench` as its client.
fn servers(scale: Scale) -> Vec<Cell> {
    let mut cells = Vec::new();
    for depth in [1, 32] {
        for write in [false, true] {
            let mut cell = requests(scale, "qcow2", write, "4k scattered", depth);
            let Work::Requests(count) = cell.work else {
                continue;
            };
            cell.name = cell.name.replace("qcow2:", "served qcow2:");
            cell.work = Work::Server(count);
            cell.arguments = cell
                .arguments
                .replace("-t none -i io_uring -f qcow2 b.full", "-f raw {uri}");
            cells.push(cell);
        }
    }
    cells
}
