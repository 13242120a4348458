//! Changes of a whole image: no request is inside, and no job runs.
use crate::error::{Error, Result};
use crate::format::qcow2::header::Header;
use crate::image::Image;
use crate::ops::create::Preallocation;

impl Image {
    /// Drops everything that the topmost layer has, so that it reads as what is beneath.
    pub(crate) async fn empty(&self) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        self.current().no_job()?;
        match self.top_qcow2() {
            Some(image) => image.empty().await,
            None => Err(Error::invalid("only a qcow2 image can be emptied")),
        }
    }

    /// Makes the topmost layer fit for version 2; see [`crate::ops::amend`].
    pub(crate) async fn expand_zeroes(&self) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        self.current().no_job()?;
        match self.top_qcow2() {
            None => Ok(()),
            Some(image) => image.expand_zeroes(&self.chain()).await,
        }
    }

    /// As [`Image::inactivate`], with a last change of a qcow2 image's header. The image must be
    /// opened anew afterwards.
    pub(crate) async fn inactivate_with(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        if let Some(image) = self.top_qcow2() {
            image.close().await?;
            image.change_header(change).await?;
        }
        self.requests().set_active(false);
        self.unlock_all();
        Ok(())
    }

    /// Gives the disk another size; see [`crate::ops::resize`].
    pub(crate) async fn resize(&self, size: u64, how: Preallocation) -> Result<()> {
        let size = size
            .checked_next_multiple_of(512)
            .filter(|&s| i64::try_from(s).is_ok())
            .ok_or_else(|| Error::invalid(format!("{size} bytes are too many")))?;
        let _alone = self.freeze_for_change().await?;
        self.current().no_job()?;
        let chain = self.chain();
        match chain.first() {
            Some(top) => top.resize(&chain, size, how).await,
            None => Ok(()),
        }
    }

    /// Stores a whole cluster in compressed form; only qcow2 can.
    pub(crate) async fn write_compressed(&self, offset: u64, packed: &[u8]) -> Result<()> {
        self.check_writable()?;
        let _inside = self.requests().enter().await?;
        self.current().no_job()?;
        match self.top_qcow2() {
            None => Err(Error::unsupported(
                "compression of raw images",
                "a raw image has no compressed clusters",
            )),
            Some(image) => {
                let len = image.geometry.cluster();
                image.record_write(offset, len).await?;
                image.write_compressed(offset, packed).await
            }
        }
    }
}
