//! `vm freepages`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::node::{FreePages, Kernel};

/// Print how many pages of each size are free in the NUMA nodes of this host
#[derive(Debug, clap::Args)]
pub struct Freepages {
    /// Only this node
    #[arg(long, value_name = "NUMBER", required_unless_present = "all")]
    cellno: Option<u32>,
    /// Only pages of so many KiB
    #[arg(long, value_name = "KIB")]
    pagesize: Option<u64>,
    /// Every node, and pages of every size
    #[arg(long, conflicts_with_all = ["cellno", "pagesize"])]
    all: bool,
}

impl Verb for Freepages {
    const NAME: &'static str = "freepages";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let mut nodes = Kernel::default().free_pages();
        if let Some(wanted) = self.cellno {
            nodes.retain(|node| node.cell == wanted);
            if nodes.is_empty() {
                let message = format!("this host has no NUMA node {wanted}");
                return Err(Error::new(Kind::NotFound, message).hint("vm freepages --all"));
            }
        }
        if let Some(size) = self.pagesize {
            for node in &mut nodes {
                node.pages.retain(|(known, _)| *known == size);
            }
            if nodes.iter().all(|node| node.pages.is_empty()) {
                let message = format!("this host has no pages of {size} KiB");
                return Err(Error::new(Kind::NotFound, message).hint("vm freepages --all"));
            }
        }
        if context.ui.is_json() {
            return context.ui.json(&nodes);
        }
        let several = nodes.len();
        for (at, FreePages { cell, pages }) in nodes.into_iter().enumerate() {
            if self.all {
                context.ui.line(format!("Node {cell}:"))?;
            }
            for (kib, count) in pages {
                context.ui.line(format!("{kib}KiB: {count}"))?;
            }
            if self.all && at + 1 < several {
                context.ui.line("")?;
            }
        }
        Ok(())
    }
}
