//! The display: where the guest's picture and the people who look at it meet.
//!
//! ```text
//!  graphics card --> resize, paint, cursor --> [ surface ] --> damage of each Viewer --> its bell
//!                                                  ^                                       |
//!  graphics card <-- Screen::wish                  +----------- copy <--- a VNC client ----+
//!  input devices <-- InputSink::group <----------- key, pointer <--------------/
//! ```
//!
//! There is one per machine. It has no thread and, before the guest shows something, no memory: an
//! empty surface is black. Whoever paints takes one short lock and never waits for a viewer: each
//! viewer has its own account of what it has not seen, in squares, and takes it when it is ready.
//!
//! Locks: the display's, then a viewer's. Neither is held while a device or a bell is called.

mod input;
mod region;

pub use input::{Event, InputSink, POSITION_MAX, Pointer, code};
pub use region::{Rect, Region, TILE};

use crate::virtio::worker::Signal;
use input::Inputs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vmm_api::spec::InputModel;

/// Size of the black picture that is shown before the guest shows one.
pub const NO_SIGNAL: (u32, u32) = (640, 480);
/// Bytes of a pixel: blue, green, red, unused.
pub const PIXEL: usize = 4;

/// The picture of a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The column and row that point.
    pub hot: (u32, u32),
    /// Blue, green, red, opacity.
    pub pixels: Vec<u8>,
}

/// A graphics card, as viewers may speak to it.
pub trait Screen: Send + Sync {
    /// Somebody would like a picture of this size. The guest decides.
    fn wish(&self, width: u32, height: u32);
}

/// What a viewer has not seen.
#[derive(Debug, Default)]
pub struct News {
    /// The picture has another size now; all of it is new.
    pub size: Option<(u32, u32)>,
    /// The pointer looks different.
    pub cursor: bool,
    /// What has changed.
    pub rects: Vec<Rect>,
}

struct Unseen {
    size: Option<(u32, u32)>,
    cursor: bool,
    region: Region,
}

/// One who looks.
pub struct Viewer {
    unseen: Mutex<Unseen>,
    /// Rings when there is news.
    pub bell: Signal,
}

impl Viewer {
    /// What has changed since the last time; `None` when nothing has.
    pub fn take(&self) -> Option<News> {
        let mut unseen = lock(&self.unseen);
        if unseen.size.is_none() && !unseen.cursor && unseen.region.is_empty() {
            return None;
        }
        Some(News {
            size: unseen.size.take(),
            cursor: std::mem::take(&mut unseen.cursor),
            rects: unseen.region.take(),
        })
    }

    /// What was taken was not shown, but for the size.
    pub fn put_back(&self, news: &News) {
        let mut unseen = lock(&self.unseen);
        unseen.cursor |= news.cursor;
        news.rects.iter().for_each(|rect| unseen.region.add(*rect));
    }

    /// Marks a part as not seen: the viewer has asked for it afresh.
    pub fn forget(&self, rect: Rect) {
        lock(&self.unseen).region.add(rect);
    }
}

struct Surface {
    width: u32,
    height: u32,
    /// Empty while all is black.
    pixels: Vec<u8>,
}

struct Inner {
    surface: Surface,
    cursor: Option<Arc<Cursor>>,
    viewers: Vec<Weak<Viewer>>,
    screen: Option<Weak<dyn Screen>>,
    inputs: Inputs,
}

/// The display of a machine.
pub struct Display(Mutex<Inner>);

impl Default for Display {
    fn default() -> Self {
        let (width, height) = NO_SIGNAL;
        Self(Mutex::new(Inner {
            surface: Surface {
                width,
                height,
                pixels: Vec::new(),
            },
            cursor: None,
            viewers: Vec::new(),
            screen: None,
            inputs: Inputs::default(),
        }))
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Notes something for every viewer; who has to be rung for.
    fn note(&mut self, change: impl Fn(&mut Unseen)) -> Vec<Arc<Viewer>> {
        self.viewers.retain(|viewer| viewer.strong_count() > 0);
        let viewers: Vec<_> = self.viewers.iter().filter_map(Weak::upgrade).collect();
        viewers
            .iter()
            .for_each(|viewer| change(&mut lock(&viewer.unseen)));
        viewers
    }
}

fn ring(viewers: Vec<Arc<Viewer>>) {
    viewers.iter().for_each(|viewer| viewer.bell.ring());
}

/// What a graphics card does.
impl Display {
    /// The graphics card that viewers' wishes go to.
    pub fn set_screen(&self, screen: Weak<dyn Screen>) {
        lock(&self.0).screen = Some(screen);
    }

    /// The picture has this size now. A new size begins black.
    pub fn resize(&self, width: u32, height: u32) {
        let mut inner = lock(&self.0);
        if (inner.surface.width, inner.surface.height) == (width, height) {
            return;
        }
        inner.surface = Surface {
            width,
            height,
            pixels: Vec::new(),
        };
        let viewers = inner.note(|unseen| {
            unseen.size = Some((width, height));
            unseen.region = Region::new(width, height);
            unseen.region.add(Rect::of(width, height));
        });
        drop(inner);
        ring(viewers);
    }

    /// Shows nothing.
    pub fn blank(&self) {
        self.resize(NO_SIGNAL.0, NO_SIGNAL.1);
        let mut inner = lock(&self.0);
        inner.surface.pixels = Vec::new();
        let viewers = inner.note(|unseen| unseen.region.add(Rect::of(NO_SIGNAL.0, NO_SIGNAL.1)));
        drop(inner);
        ring(viewers);
    }

    /// Paints a part of the picture: `fill` is called with each row and the pixels in it that lie in
    /// `rect`. What lies outside of the picture is left out.
    pub fn paint(&self, rect: Rect, mut fill: impl FnMut(u32, &mut [u8])) {
        let mut inner = lock(&self.0);
        let surface = &mut inner.surface;
        let rect = rect.common(&Rect::of(surface.width, surface.height));
        if rect.is_empty() {
            return;
        }
        let stride = surface.width as usize * PIXEL;
        if surface.pixels.is_empty() {
            surface.pixels = vec![0; stride * surface.height as usize];
        }
        let columns = rect.x as usize * PIXEL..(rect.x + rect.width) as usize * PIXEL;
        let rows = surface.pixels.chunks_exact_mut(stride);
        for (y, row) in (0..)
            .zip(rows)
            .skip(rect.y as usize)
            .take(rect.height as usize)
        {
            if let Some(part) = row.get_mut(columns.clone()) {
                fill(y, part);
            }
        }
        let viewers = inner.note(|unseen| unseen.region.add(rect));
        drop(inner);
        ring(viewers);
    }

    /// The pointer looks like this, or is hidden.
    pub fn set_cursor(&self, cursor: Option<Cursor>) {
        let mut inner = lock(&self.0);
        inner.cursor = cursor.map(Arc::new);
        let viewers = inner.note(|unseen| unseen.cursor = true);
        drop(inner);
        ring(viewers);
    }
}

/// What viewers do.
impl Display {
    /// Somebody begins to look; everything is news.
    pub fn look(&self) -> Arc<Viewer> {
        let mut inner = lock(&self.0);
        let (width, height) = (inner.surface.width, inner.surface.height);
        let viewer = Arc::new(Viewer {
            unseen: Mutex::new(Unseen {
                size: None,
                cursor: inner.cursor.is_some(),
                region: Region::new(width, height),
            }),
            bell: Signal::default(),
        });
        viewer.forget(Rect::of(width, height));
        inner.viewers.retain(|viewer| viewer.strong_count() > 0);
        inner.viewers.push(Arc::downgrade(&viewer));
        viewer
    }

    /// Width and height of the picture.
    pub fn size(&self) -> (u32, u32) {
        let inner = lock(&self.0);
        (inner.surface.width, inner.surface.height)
    }

    /// The pixels of a part, row by row, four bytes each. Black where the picture has become smaller
    /// since `rect` was told.
    pub fn copy(&self, rect: Rect) -> Vec<u8> {
        let width = rect.width as usize * PIXEL;
        let mut out = vec![0; width * rect.height as usize];
        let inner = lock(&self.0);
        let surface = &inner.surface;
        let stride = surface.width as usize * PIXEL;
        let start = (rect.x as usize * PIXEL).min(stride);
        let end = (start + width).min(stride);
        let rows = surface.pixels.chunks_exact(stride.max(1));
        let targets = out.chunks_exact_mut(width.max(1));
        for (row, target) in rows.skip(rect.y as usize).zip(targets) {
            let part = row.get(start..end).unwrap_or_default();
            target
                .iter_mut()
                .zip(part)
                .for_each(|(to, from)| *to = *from);
        }
        out
    }

    /// What the pointer looks like; `None` when it is hidden.
    pub fn cursor(&self) -> Option<Arc<Cursor>> {
        lock(&self.0).cursor.clone()
    }

    /// Asks the graphics card for another size; false when there is none.
    pub fn wish(&self, width: u32, height: u32) -> bool {
        let screen = lock(&self.0).screen.as_ref().and_then(Weak::upgrade);
        screen.is_some_and(|screen| {
            screen.wish(width, height);
            true
        })
    }

    /// An input device of the guest.
    pub fn add_input(&self, sink: Weak<dyn InputSink>) {
        lock(&self.0).inputs.add(sink);
    }

    /// A key (code of Linux) goes down or up; false when there is no keyboard, or no such key.
    pub fn key(&self, key: u16, down: bool) -> bool {
        if key == 0 || key > code::KEY_LAST {
            return false;
        }
        let sink = lock(&self.0).inputs.find(InputModel::Keyboard);
        sink.is_some_and(|sink| {
            let event = Event::new(code::EV_KEY, key, u32::from(down));
            sink.group(&[event, Event::SYN]);
            true
        })
    }

    /// Every button of the pointer is up again, where it was last.
    pub fn release_buttons(&self) {
        let last = lock(&self.0).inputs.last();
        self.pointer(Pointer { buttons: 0, ..last });
    }

    /// The pointer has moved, or its buttons have; false when there is nothing to point with.
    pub fn pointer(&self, now: Pointer) -> bool {
        let mut inner = lock(&self.0);
        let tablet = inner.inputs.find(InputModel::Tablet);
        let absolute = tablet.is_some();
        let Some(sink) = tablet.or_else(|| inner.inputs.find(InputModel::Mouse)) else {
            return false;
        };
        let size = (inner.surface.width, inner.surface.height);
        let events = inner.inputs.pointer(now, size, absolute);
        drop(inner);
        sink.group(&events);
        true
    }
}

#[cfg(test)]
mod tests;
