//! `vm image`: disk images in files, with qemu-img's options and words.
//!
//! One file per verb. What a verb does is in the `images` crate; here are its command line and its
//! output. [`tool`] opens files and turns errors of images into ours.

mod amend;
mod backup;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod options;
mod queues;
mod rebase;
mod resize;
mod serve;
mod snapshot;
pub(in crate::cli) mod tool;

use super::{Context, Group, Verb};
use crate::error::Result;
use std::process::ExitCode;

/// Make, look at and change disk images, with the words of qemu-img
#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ImageVerb {
    Amend(amend::Amend),
    Backup(backup::Backup),
    Bench(bench::Bench),
    Bitmap(bitmap::Bitmap),
    Check(check::Check),
    Commit(commit::Commit),
    Compare(compare::Compare),
    Convert(convert::Convert),
    Create(create::Create),
    Dd(dd::Dd),
    Info(info::Info),
    Map(map::Map),
    Measure(measure::Measure),
    Rebase(rebase::Rebase),
    Resize(resize::Resize),
    Serve(serve::Serve),
    Snapshot(snapshot::Snapshot),
}

impl Verb for Image {
    const NAME: &'static str = "image";
    const GROUP: Group = Group::Image;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        // Scripts that know qemu-img expect no blank line at the end.
        context.ui.no_end();
        let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
        match self.verb {
            ImageVerb::Amend(verb) => done(verb.run(context)),
            ImageVerb::Backup(verb) => done(verb.run(context)),
            ImageVerb::Bench(verb) => done(verb.run(context)),
            ImageVerb::Bitmap(verb) => done(verb.run(context)),
            ImageVerb::Check(verb) => verb.run(context),
            ImageVerb::Commit(verb) => done(verb.run(context)),
            ImageVerb::Compare(verb) => verb.run(context),
            ImageVerb::Convert(verb) => done(verb.run(context)),
            ImageVerb::Create(verb) => done(verb.run(context)),
            ImageVerb::Dd(verb) => done(verb.run(context)),
            ImageVerb::Info(verb) => done(verb.run(context)),
            ImageVerb::Map(verb) => done(verb.run(context)),
            ImageVerb::Measure(verb) => done(verb.run(context)),
            ImageVerb::Rebase(verb) => done(verb.run(context)),
            ImageVerb::Resize(verb) => done(verb.run(context)),
            ImageVerb::Serve(verb) => done(verb.run(context)),
            ImageVerb::Snapshot(verb) => done(verb.run(context)),
        }
    }
}
