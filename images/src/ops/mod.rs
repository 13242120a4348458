//! Operations on whole images, for tools and for the manager.
//!
//! They take opened files or open images, like everything else in this crate; only what an image
//! names goes through a gate.
pub mod amend;
pub mod bench;
pub mod bitmap;
mod buffers;
pub mod check;
pub mod compare;
pub mod convert;
pub mod create;
pub mod info;
pub mod map;
pub mod measure;
pub mod rebase;
pub mod resize;
pub mod snapshot;

pub use amend::{AmendOptions, amend, amend_on};
pub use bench::{BenchOptions, bench, bench_queue};
pub use check::{CheckReport, Repair, check};
pub use compare::{Comparison, compare};
pub use convert::{ConvertOptions, convert};
pub use create::{Backing, CreateOptions, Preallocation, create};
pub use info::{Info, info};
pub use map::{MapEntry, map};
pub use measure::{Measurement, measure};
pub use rebase::{commit, empty, rebase, set_backing, set_backing_on};
pub use resize::{resize, resize_with};
