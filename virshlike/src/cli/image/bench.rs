//! `vm image bench`

use super::queues::together;
use super::tool::{self, Access};
use crate::cli::Context;
use crate::error::{Error, Kind, Result, plain_io};
use images::Image;
use images::ops::BenchOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::Builder;
use std::time::Duration;

/// Measure how fast an image is
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Requests in total
    #[arg(short = 'c', long, value_name = "N", default_value_t = 75000)]
    count: u64,
    /// Requests in flight
    #[arg(short = 'd', long, value_name = "N", default_value_t = 64)]
    depth: u64,
    /// Threads that send requests to the image, each with so many in flight
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    queues: u8,
    /// Bytes of a request
    #[arg(
        short = 's',
        long = "buffer-size",
        value_name = "SIZE",
        default_value = "4k"
    )]
    size: String,
    /// Bytes from one request to the next; that of a request if not said
    #[arg(short = 'S', long = "step-size", value_name = "SIZE")]
    step: Option<String>,
    /// Where the first request is
    #[arg(short = 'o', long, value_name = "SIZE", default_value = "0")]
    offset: String,
    /// Write instead of read; destroys what is in the image
    #[arg(short = 'w', long)]
    write: bool,
    /// Flush after so many requests
    #[arg(long, value_name = "N", default_value_t = 0)]
    flush_interval: u64,
    /// The byte to write
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    pattern: u8,
    /// Cache mode: none, writeback, writethrough, unsafe, directsync
    #[arg(short = 't', long, value_name = "MODE", default_value = "writeback")]
    cache: String,
    /// How files are read and written: io_uring, or threads; native is taken as io_uring
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// Accepted for qemu-img's sake: flushes never wait for requests in flight
    #[arg(long, hide = true)]
    no_drain: bool,
    /// Measure although somebody uses the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    filename: PathBuf,
}

impl Bench {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with the image; the first request that failed.
    pub fn run(self, context: &Context) -> Result<()> {
        let executor = tool::executor_for(self.aio.as_deref())?;
        let format = tool::format_of(&self.filename, self.fmt.as_deref())?;
        let access = Access {
            writable: self.write,
            cache: Some(tool::cache(&self.cache)?),
            unlocked: self.force_share,
            ..Access::default()
        };
        let image = tool::open(&self.filename, format, access)?;
        tool::activate(&executor, &self.filename, &image)?;
        let size = tool::size(&self.size)?;
        let options = BenchOptions {
            write: self.write,
            count: self.count,
            depth: self.depth,
            size,
            step: self.step.as_deref().map_or(Ok(size), tool::size)?,
            offset: tool::size(&self.offset)?,
            flush_interval: self.flush_interval,
            pattern: self.pattern,
        };
        context.ui.sentence(format!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step \
             size {})",
            options.count,
            if options.write { "write" } else { "read" },
            options.size,
            options.depth,
            options.offset,
            options.step
        ))?;
        let done = match self.queues {
            1 => executor.block_on(images::ops::bench(&image, &options)),
            _ => self.queues(&image, &options)?,
        };
        let took = tool::close_after(&executor, &self.filename, &image, done)?;
        let seconds = took.as_secs_f64();
        if context.ui.is_json() {
            let rate = options.count as f64 / seconds;
            return context
                .ui
                .json(&serde_json::json!({ "seconds": seconds, "iops": rate }));
        }
        context
            .ui
            .line(format!("Run completed in {seconds:.3} seconds."))
    }

    /// Lets every queue's thread begin at once; how long the last one took.
    fn queues(
        &self,
        image: &Arc<Image>,
        options: &BenchOptions,
    ) -> Result<std::result::Result<Duration, images::Error>> {
        let next = Arc::new(AtomicU64::new(0));
        let threads = (0..self.queues).map(|number| Builder::new().name(format!("queue{number}")));
        let prepare = || tool::executor_for(self.aio.as_deref());
        let work = |executor: Result<images::exec::Executor>| {
            Ok::<_, Error>(executor?.block_on(images::ops::bench_queue(image, options, &next)))
        };
        let ended = together(threads, prepare, work).map_err(|error| {
            let message = format!("{} queues cannot have a thread each", self.queues);
            Error::new(Kind::Host, message)
                .cause(plain_io(&error))
                .hint("take fewer with --queues")
        })?;
        let mut longest = Duration::ZERO;
        for end in ended {
            match end? {
                Ok(took) => longest = longest.max(took),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(longest))
    }
}
