//! `vm image dd`

use super::create;
use super::tool::{self, Access, Progress};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::Cache;
use images::ops::ConvertOptions;
use images::ops::create::CreateOptions;
use std::path::{Path, PathBuf};

/// Copy a part of an image into a new one, with the words of dd
#[derive(Debug, clap::Args)]
pub struct Dd {
    /// Format of the input; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Format of the output
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    output_format: String,
    /// Read the input although somebody may be writing to it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// if=FILE of=FILE, and bs=SIZE, count=BLOCKS, skip=BLOCKS
    #[arg(required = true, value_name = "KEY=VALUE")]
    words: Vec<String>,
}

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    input: PathBuf,
    output: PathBuf,
    /// Bytes left out at the start, and copied at most from the start of the input on.
    skip: u64,
    end: u64,
}

impl Dd {
    /// Does it.
    ///
    /// # Errors
    /// Words that are no words of dd; what is wrong with either image; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let words = parse(&self.words)?;
        let executor = tool::executor()?;
        let format = tool::format_of(&words.input, self.fmt.as_deref())?;
        let access = Access {
            unlocked: self.force_share,
            ..Access::default()
        };
        let source = tool::open(&words.input, format, access)?;
        tool::activate(&executor, &words.input, &source)?;
        let end = words.end.min(source.virtual_size());
        if words.skip > end {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "cannot skip to specified offset: {} bytes are left out of {end}",
                    words.skip
                ),
            ));
        }
        let format = tool::target_format(&self.output_format)?;
        let new = CreateOptions::new(format, end - words.skip);
        let file = create::new_file(&words.output)?;
        create::image_in(&file, &new)?;
        let how = ConvertOptions {
            target_is_zero: file.file.metadata().is_ok_and(|meta| meta.is_file()),
            skip: words.skip,
            limit: end - words.skip,
            ..ConvertOptions::default()
        };
        let copied = copy(context, &executor, (&source, &words.output, format), &how);
        if copied.is_err() {
            file.give_up();
        }
        copied
    }
}

fn copy(
    context: &Context,
    executor: &images::exec::Executor,
    (source, path, format): (&std::sync::Arc<images::Image>, &Path, images::Format),
    how: &ConvertOptions,
) -> Result<()> {
    let access = Access {
        writable: true,
        cache: Some(Cache::Writeback),
        ..Access::default()
    };
    let target = tool::open(path, format, access)?;
    target.write_blocking();
    tool::activate(executor, path, &target)?;
    let progress = Progress::new(context, false);
    let result = executor.block_on(images::ops::convert(
        source,
        &target,
        how,
        &|done, total| {
            progress.set(done, total);
        },
    ));
    progress.end();
    tool::close_after(executor, path, &target, result)
}

fn parse(words: &[String]) -> Result<Words> {
    let (mut input, mut output) = (None, None);
    let (mut block, mut count, mut skip) = (512, None, 0u64);
    for word in words {
        let unknown = || Error::new(Kind::Usage, format!("unrecognized operand '{word}'"));
        let (key, value) = word.split_once('=').ok_or_else(unknown)?;
        match key {
            "if" => input = Some(PathBuf::from(value)),
            "of" => output = Some(PathBuf::from(value)),
            "bs" => block = tool::size(value)?,
            "count" => count = Some(tool::size(value)?),
            "skip" => skip = tool::size(value)?,
            _ => return Err(unknown().hint("the operands are if, of, bs, count and skip")),
        }
    }
    let (Some(input), Some(output)) = (input, output) else {
        return Err(Error::new(
            Kind::Usage,
            "Must specify both input and output file names",
        ));
    };
    if block == 0 {
        return Err(Error::new(Kind::Usage, "bs=0 copies nothing"));
    }
    Ok(Words {
        input,
        output,
        skip: skip.saturating_mul(block),
        end: count.map_or(u64::MAX, |count: u64| count.saturating_mul(block)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_dd_are_read() {
        let words = |text: &str| {
            let words: Vec<String> = text.split(' ').map(String::from).collect();
            parse(&words)
        };
        let found = words("if=a of=b bs=1M count=3 skip=1").unwrap();
        assert_eq!((found.skip, found.end), (1 << 20, 3 << 20));
        assert_eq!(words("if=a of=b skip=2").unwrap().skip, 1024);
        for wrong in ["if=a", "if=a of=b bs=0", "if=a of=b conv=sync", "a b"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
