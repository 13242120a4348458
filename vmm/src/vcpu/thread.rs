//! The thread of one vCPU.

use super::exits::{Board, Flow};
use super::mailbox::{Mailbox, Next};
use crate::kvm::Vcpu;
use crate::kvm::kick::Attached;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Stack of a vCPU thread: device models run on it, none of them deeply.
const STACK: usize = 256 << 10;

/// A vCPU and its thread. Dropping it ends the thread and waits for it.
#[derive(Debug)]
pub struct VcpuThread {
    mailbox: Arc<Mailbox>,
    handle: Option<JoinHandle<()>>,
}

/// The vCPU's thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the vCPU's thread has ended")]
pub struct Gone;

impl VcpuThread {
    /// Starts a thread for `vcpu`; it stands still until [`Mailbox::run`].
    ///
    /// # Errors
    /// What the host says.
    pub fn start(vcpu: Vcpu, board: Arc<Board>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new());
        let for_thread = Arc::clone(&mailbox);
        let handle = std::thread::Builder::new()
            .name(format!("vcpu{}", vcpu.index()))
            .stack_size(STACK)
            .spawn(move || {
                let _gone = GoneOnDrop(&for_thread, &board);
                let kick = for_thread.kick_handle();
                serve(&for_thread, &board, &mut Attached::new(vcpu, kick));
            })?;
        Ok(Self {
            mailbox,
            handle: Some(handle),
        })
    }

    /// What others may ask of it.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Runs `job` on the vCPU's thread and waits for its answer. Never from a vCPU's own thread.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.mailbox.call(Box::new(move |vcpu| {
            // The caller waits below; when it does not, nobody misses the answer.
            let _heard = answer.send(job(vcpu));
        }));
        answered.recv().map_err(|_| Gone)
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.mailbox.quit();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("a vCPU thread panicked");
        }
    }
}

/// Tells those who wait, also when the thread panics; the guest has then lost a processor, which is
/// a crash.
struct GoneOnDrop<'a>(&'a Mailbox, &'a Board);

impl Drop for GoneOnDrop<'_> {
    fn drop(&mut self) {
        self.0.gone();
        if std::thread::panicking() {
            let detail = "a vCPU thread of the vmm panicked: this is a bug of the vmm";
            self.1.requests.crashed(detail);
        }
    }
}

fn serve(mailbox: &Mailbox, board: &Board, attached: &mut Attached) {
    let boot_vcpu = attached.vcpu().index() == 0;
    loop {
        match mailbox.next(attached) {
            Next::Run => run(mailbox, board, attached.vcpu(), boot_vcpu),
            Next::Job(job) => job(attached.vcpu()),
            Next::Quit => return,
        }
    }
}

/// Until somebody wants something, or the guest cannot go on. An access that needed us is always
/// completed first: KVM finishes it on the next entry, before it looks at a kick.
fn run(mailbox: &Mailbox, board: &Board, vcpu: &mut Vcpu, boot_vcpu: bool) {
    loop {
        if boot_vcpu {
            board.deliver_external(vcpu);
        }
        match board.step(vcpu) {
            Flow::Run => {}
            Flow::Look => return,
            Flow::Last => {
                mailbox.stand_still();
                mailbox.nudge();
            }
            Flow::Stop => {
                mailbox.stand_still();
                return;
            }
        }
    }
}
