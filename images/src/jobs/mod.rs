//! Jobs on an image that is in use: its writers go on meanwhile.
//!
//! | file        | job                                                                        |
//! |-------------|----------------------------------------------------------------------------|
//! | `overlay`   | external snapshot: a new topmost layer                                     |
//! | `mirror`    | block copy to another file, and using that instead (pivot)                 |
//! | `commit`    | the layers above a base move down into it, and the base becomes the top    |
//! | `stream`    | the layers beneath move up into the top, and leave the chain               |
//! | `backup`    | the disk as it is now, or what a bitmap has of it, to another image        |
//! | `snapshot`  | deletes an internal snapshot in steps                                      |
//! | `grow`      | a larger disk                                                              |
//! | `tap`       | how a job sees writes; `copy` the loop that copying jobs share             |
//!
//! One job at a time runs on an image. It is a future that anybody may run, on a thread of its
//! own if he likes; its [`Control`] tells how far it is, and takes the wish to cancel it, to limit
//! its speed, or to let it finish:
//!
//! ```text
//! Running --everything is copied--> Ready (mirror, commit) --complete()--> Done
//!    |                                |
//!    +-----cancel(), an error---------+--> the image is as if there had been no job
//! ```
//!
//! Copying jobs go granule by granule. Writers wait only for the granule that is being copied,
//! and all of them for the moments in which layers are exchanged. Dropping a job's future or
//! killing the process at any instant leaves the image that it runs on whole: a target that is not
//! finished is of no use, and nothing refers to it.
mod backup;
mod commit;
mod control;
mod copy;
mod grow;
mod mirror;
mod overlay;
mod snapshot;
mod stream;
pub(crate) mod tap;

use std::fs::File;
use std::sync::Arc;

use crate::error::Result;
use crate::format::Format;
use crate::gate::Gate;
use crate::image::{Image, OpenOptions};
use crate::node::{Node, open_chain};
use crate::storage::{Cache, Storage};

pub use backup::{BackupOptions, backup};
pub use commit::commit;
pub use control::{Control, Outcome, Phase};
pub use grow::grow;
pub use mirror::{MirrorOptions, mirror};
pub use overlay::overlay;
pub use snapshot::delete_snapshot;
pub use stream::{StreamOptions, stream};

/// A file that becomes a layer of the image.
pub struct Target {
    /// Where its bytes are.
    pub storage: Storage,
    /// What messages call it.
    pub name: String,
    /// Its format.
    pub format: Format,
}

impl Target {
    /// A file, opened for reading and writing.
    ///
    /// # Errors
    /// A file that is neither a regular file nor a block device.
    pub fn file(file: File, name: &str, format: Format, cache: Cache) -> Result<Target> {
        Ok(Target {
            storage: Storage::file(file, cache)?,
            name: name.to_owned(),
            format,
        })
    }

    /// Opens it with everything beneath it, for the requests of `image`; locked and active.
    async fn open(self, image: &Image, gate: &dyn Gate) -> Result<Vec<Node>> {
        let mut options = OpenOptions::new(self.format);
        options.cache = image.options().cache;
        let chain = open_chain(self.storage, &self.name, &options, gate, image.requests())?;
        image.lock_chain(&chain)?;
        for node in chain.iter().rev() {
            if let Err(e) = node.activate().await {
                unlock(&chain);
                return Err(e);
            }
        }
        Ok(chain)
    }
}

fn unlock(chain: &[Node]) {
    chain
        .iter()
        .flat_map(|node| node.storages())
        .for_each(Storage::unlock);
}

/// Gives the locks of layers up that are in `old`, but not in `new`.
fn unlock_gone(old: &[Node], new: &[Node]) {
    for node in old {
        if !new.iter().any(|n| n.is(node)) {
            unlock(std::slice::from_ref(node));
        }
    }
}

/// A job's place at the image: given up when the job ends, however it ends.
struct Installed<'a> {
    image: &'a Image,
    tap: Arc<tap::Tap>,
}

impl<'a> Installed<'a> {
    /// The caller keeps requests out.
    fn new(image: &'a Image, tap: tap::Tap) -> Result<Installed<'a>> {
        let tap = Arc::new(tap);
        image.current().install(&tap)?;
        Ok(Installed { image, tap })
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        self.tap.end();
        self.image.current().remove(&self.tap);
    }
}
