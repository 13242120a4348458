//! What an image is made of at this moment: its layers, and the job that looks at its writes.
//!
//! Every request takes one copy of this when it comes in and uses it to its end. It is changed
//! only while no request is inside (see [`Requests::freeze`](crate::requests::Requests::freeze)),
//! so all requests that are under way agree about it. Layers are shared by count: one that leaves
//! the chain lives until the last request that knows it is over.
use std::sync::{Arc, PoisonError, RwLock};

use crate::access::{self, Change};
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::tap::Tap;
use crate::node::{Kind, Node};

/// The layers of an image, from the top.
pub(crate) type Chain = Arc<[Node]>;

/// Layers and job.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) chain: Chain,
    pub(crate) tap: Option<Arc<Tap>>,
}

/// The place where an image keeps it.
pub(crate) struct Current(RwLock<Live>);

impl Current {
    pub(crate) fn new(chain: Vec<Node>) -> Current {
        Current(RwLock::new(Live {
            chain: chain.into(),
            tap: None,
        }))
    }

    /// What it is now.
    pub(crate) fn get(&self) -> Live {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Virtual size of the topmost layer.
    pub(crate) fn top_size(&self) -> u64 {
        let live = self.0.read().unwrap_or_else(PoisonError::into_inner);
        live.chain.first().map_or(0, Node::size)
    }

    /// The layers now.
    pub(crate) fn chain(&self) -> Chain {
        let live = self.0.read().unwrap_or_else(PoisonError::into_inner);
        live.chain.clone()
    }

    /// Puts other layers in their place. No request is inside.
    pub(crate) fn set_chain(&self, chain: Vec<Node>) {
        let mut live = self.0.write().unwrap_or_else(PoisonError::into_inner);
        live.chain = chain.into();
    }

    /// Lets a job look at all writes from now on. No request is inside.
    ///
    /// # Errors
    /// Another job is there.
    pub(crate) fn install(&self, tap: &Arc<Tap>) -> Result<()> {
        let mut live = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if live.tap.is_some() {
            return Err(busy());
        }
        live.tap = Some(tap.clone());
        Ok(())
    }

    /// Takes the job away. Requests that are inside may still tell it of their writes.
    pub(crate) fn remove(&self, tap: &Arc<Tap>) {
        let mut live = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if live.tap.as_ref().is_some_and(|t| Arc::ptr_eq(t, tap)) {
            live.tap = None;
        }
    }

    /// Refuses what cannot be done while a job runs.
    ///
    /// # Errors
    /// A job runs.
    pub(crate) fn no_job(&self) -> Result<()> {
        match self.get().tap {
            None => Ok(()),
            Some(_) => Err(busy()),
        }
    }
}

fn busy() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "another job is running on this image: wait for it, or cancel it",
    )
}

impl Live {
    /// Changes the topmost layer, and tells the bitmaps and the job of it.
    ///
    /// # Errors
    /// What the layer says; what goes wrong for the job is the job's.
    pub(crate) async fn apply(&self, offset: u64, change: Change<'_>) -> Result<()> {
        match &self.tap {
            None => put(&self.chain, offset, change).await,
            // Rare, and it may lead to another image: out of the way of the common case.
            Some(tap) => Box::pin(tap.apply(&self.chain, offset, change)).await,
        }
    }
}

/// Changes the topmost layer of a chain, and tells its bitmaps.
///
/// # Errors
/// As a write.
pub(crate) async fn put(chain: &[Node], offset: u64, change: Change<'_>) -> Result<()> {
    if let Some(Kind::Qcow2(image)) = chain.first().map(|top| &top.kind) {
        image.record_write(offset, change.len()).await?;
    }
    access::change(chain, offset, change).await
}
