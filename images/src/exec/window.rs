//! Parts of a job in a window: the next ones begin while earlier ones are still in flight.
use std::future::poll_fn;
use std::task::{Context, Poll};

use super::Part;

/// At most so many parts in flight. They move on while [`Window::push`] or [`Window::finish`] waits.
pub(crate) struct Window<'a, E> {
    parts: Vec<Part<'a, E>>,
    most: usize,
    error: Option<E>,
}

impl<'a, E> Window<'a, E> {
    pub(crate) fn new(most: usize) -> Window<'a, E> {
        Window {
            parts: Vec::new(),
            most: most.max(1),
            error: None,
        }
    }

    /// Begins a part; waits until there is room for it.
    ///
    /// # Errors
    /// That of an earlier part; this one has not begun then.
    pub(crate) async fn push(&mut self, part: Part<'a, E>) -> Result<(), E> {
        let room = self.most - 1;
        self.wait(room).await?;
        self.parts.push(part);
        // Its transfer is handed over with those that follow.
        poll_fn(|cx| {
            self.poll(cx);
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    /// Waits for all parts.
    ///
    /// # Errors
    /// The first one; all have ended.
    pub(crate) async fn finish(mut self) -> Result<(), E> {
        self.wait(0).await
    }

    async fn wait(&mut self, most: usize) -> Result<(), E> {
        poll_fn(|cx| {
            self.poll(cx);
            // After an error all are waited for: their memory is in the kernel's hands.
            let most = if self.error.is_some() { 0 } else { most };
            if self.parts.len() > most {
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        self.error.take().map_or(Ok(()), Err)
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        let error = &mut self.error;
        self.parts.retain_mut(|part| match part.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(e)) => {
                error.get_or_insert(e);
                false
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Engine, Executor, yield_now};
    use std::cell::Cell;

    #[test]
    fn parts_overlap_up_to_the_window_and_errors_end_the_job() {
        let ex = Executor::new(Engine::Threads).unwrap();
        let (now, most, ended) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let part = |n: usize| -> Part<'_, usize> {
            let (now, most, ended) = (&now, &most, &ended);
            Box::pin(async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                for _ in 0..n % 5 + 20 {
                    yield_now().await;
                }
                now.set(now.get() - 1);
                ended.set(ended.get() + 1);
                if n == 30 { Err(n) } else { Ok(()) }
            })
        };
        let result = ex.block_on(async {
            let mut window = Window::new(4);
            for n in 0..100 {
                window.push(part(n)).await?;
            }
            window.finish().await
        });
        assert_eq!((result, most.get(), now.get()), (Err(30), 4, 0));
        assert!((31..36).contains(&ended.get()), "{}", ended.get());
    }
}
