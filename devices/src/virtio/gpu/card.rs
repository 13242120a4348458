//! The card: its pictures, its output and its pointer. One lock around it, held for one command.

use super::command::{Command, CursorCommand, Failure, Response};
use super::edid;
use super::resource::{self, Backing, Resource};
use super::state::{GpuState, ScanoutState};
use crate::backend::display::{Cursor, Display, PIXEL, Rect};
use crate::memory::GuestMemory;
use std::collections::BTreeMap;
use std::sync::Arc;
use vmm_api::spec::{GpuSpec, MAX_RESOLUTION, MIN_RESOLUTION};

/// Pictures that a guest may have at the same time.
pub(super) const MAX_RESOURCES: usize = 4096;
/// Pieces of memory behind all pictures together: 4 KiB pages of 256 MiB.
pub(super) const MAX_PIECES: usize = 65536;
/// Longest side of a pointer's picture.
const MAX_CURSOR: u32 = 64;
/// Event of the configuration space: the output has changed (virtio 1.3 §5.7.4).
pub(super) const EVENT_DISPLAY: u32 = 1;

/// What the output shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scanout {
    resource: u32,
    rect: Rect,
}

/// The card.
pub(super) struct Card {
    display: Arc<Display>,
    spec: GpuSpec,
    resources: BTreeMap<u32, Resource>,
    scanout: Option<Scanout>,
    /// The resource that the pointer looks like, and what of it points.
    cursor: Option<Cursor>,
    /// What the guest is asked to show.
    wanted: (u32, u32),
    /// Events that the driver has not cleared.
    pub(super) events: u32,
    pub(super) failures: u64,
}

impl Card {
    pub(super) fn new(spec: &GpuSpec, display: &Arc<Display>) -> Self {
        Self {
            display: Arc::clone(display),
            spec: spec.clone(),
            resources: BTreeMap::new(),
            scanout: None,
            cursor: None,
            wanted: (spec.width, spec.height),
            events: 0,
            failures: 0,
        }
    }

    /// Back to power-on; what a viewer has wished stays.
    pub(super) fn reset(&mut self) {
        self.resources.clear();
        self.events = 0;
        self.hide();
        if self.cursor.take().is_some() {
            self.display.set_cursor(None);
        }
    }

    /// A viewer would like another size; whether the driver is to be told.
    pub(super) fn wish(&mut self, width: u32, height: u32) -> bool {
        let side = |side: u32| side.clamp(MIN_RESOLUTION, MAX_RESOLUTION);
        let wanted = (side(width), side(height));
        let needed = u64::from(wanted.0) * u64::from(wanted.1) * PIXEL as u64;
        if wanted == self.wanted || needed > self.spec.memory {
            return false;
        }
        self.wanted = wanted;
        self.events |= EVENT_DISPLAY;
        true
    }

    /// Bytes of all pictures.
    pub(super) fn used(&self) -> u64 {
        let lengths = self.resources.values().map(|r| r.pixels.len() as u64);
        lengths.sum()
    }

    fn pieces(&self) -> usize {
        let backings = self.resources.values().filter_map(|r| r.backing.as_ref());
        backings.map(|backing| backing.pieces().len()).sum()
    }

    /// How many pieces an attach may bring; fewer than it asks for is a refusal.
    pub(super) fn room_for_pieces(&self) -> usize {
        MAX_PIECES.saturating_sub(self.pieces())
    }

    /// Does a command. `pieces` are those behind an attach.
    pub(super) fn perform(
        &mut self,
        command: Command,
        pieces: Vec<(u64, u32)>,
        memory: &GuestMemory,
    ) -> Response {
        let done = match command {
            Command::DisplayInfo => {
                return Response::DisplayInfo(self.wanted.0, self.wanted.1);
            }
            Command::Edid { scanout: 0 } => {
                return Response::Edid(edid::generate(self.wanted.0, self.wanted.1));
            }
            Command::Edid { .. } => Err(Failure::Scanout),
            Command::Create {
                resource,
                format,
                width,
                height,
            } => self.create(resource, format, (width, height)),
            Command::Unref(resource) => self.unref(resource),
            Command::SetScanout {
                rect,
                scanout,
                resource,
            } => self.set_scanout(rect, scanout, resource),
            Command::Flush { rect, resource } => self.flush(rect, resource),
            Command::Transfer {
                rect,
                offset,
                resource,
            } => self
                .find(resource)
                .and_then(|resource| resource.transfer(memory, rect, offset)),
            Command::Attach { resource, .. } => self.attach(resource, pieces),
            Command::Detach(resource) => self.find(resource).map(|r| r.backing = None),
            Command::Cursor(cursor) => self.set_cursor(cursor),
        };
        match done {
            Ok(()) => Response::Done,
            Err(failure) => self.fail(failure),
        }
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, failure: Failure) -> Response {
        self.failures = self.failures.wrapping_add(1);
        Response::Failed(failure)
    }

    fn find(&mut self, resource: u32) -> Result<&mut Resource, Failure> {
        self.resources.get_mut(&resource).ok_or(Failure::Resource)
    }

    fn create(&mut self, number: u32, format: u32, size: (u32, u32)) -> Result<(), Failure> {
        if number == 0 || self.resources.contains_key(&number) {
            return Err(Failure::Resource);
        }
        let length = resource::bytes(size.0, size.1).ok_or(Failure::Parameter)?;
        let fits = self.used().checked_add(length);
        if fits.is_none_or(|all| all > self.spec.memory) || self.resources.len() >= MAX_RESOURCES {
            return Err(Failure::OutOfMemory);
        }
        let resource = Resource::new(format, size.0, size.1)?;
        self.resources.insert(number, resource);
        Ok(())
    }

    fn unref(&mut self, number: u32) -> Result<(), Failure> {
        self.resources.remove(&number).ok_or(Failure::Resource)?;
        if self.scanout.is_some_and(|shown| shown.resource == number) {
            self.hide();
        }
        Ok(())
    }

    fn attach(&mut self, number: u32, pieces: Vec<(u64, u32)>) -> Result<(), Failure> {
        let resource = self.find(number)?;
        if resource.backing.is_some() {
            return Err(Failure::Unspecified);
        }
        resource.backing = Some(Backing::new(pieces));
        Ok(())
    }

    fn set_scanout(&mut self, rect: Rect, scanout: u32, number: u32) -> Result<(), Failure> {
        if scanout != 0 {
            return Err(Failure::Scanout);
        }
        if number == 0 {
            self.hide();
            return Ok(());
        }
        let resource = self.find(number)?;
        if rect.is_empty() || !rect.is_within(resource.width, resource.height) {
            return Err(Failure::Parameter);
        }
        self.scanout = Some(Scanout {
            resource: number,
            rect,
        });
        self.display.resize(rect.width, rect.height);
        self.paint(rect);
        Ok(())
    }

    fn flush(&mut self, rect: Rect, number: u32) -> Result<(), Failure> {
        let resource = self.find(number)?;
        if !rect.is_within(resource.width, resource.height) {
            return Err(Failure::Parameter);
        }
        if self.scanout.is_some_and(|shown| shown.resource == number) {
            self.paint(rect);
        }
        Ok(())
    }

    /// Paints what the output shows of a rectangle of its resource.
    fn paint(&self, rect: Rect) {
        let Some(shown) = self.scanout else { return };
        let Some(resource) = self.resources.get(&shown.resource) else {
            return;
        };
        let seen = rect.common(&shown.rect);
        if seen.is_empty() {
            return;
        }
        let on_screen = Rect {
            x: seen.x - shown.rect.x,
            y: seen.y - shown.rect.y,
            ..seen
        };
        self.display.paint(on_screen, |y, row| {
            resource.row(seen.x, y + shown.rect.y, row);
        });
    }

    fn hide(&mut self) {
        if self.scanout.take().is_some() {
            self.display.blank();
        }
    }

    fn set_cursor(&mut self, command: CursorCommand) -> Result<(), Failure> {
        if command.scanout != 0 {
            return Err(Failure::Scanout);
        }
        // Viewers draw the pointer where their own is.
        if command.moved {
            return Ok(());
        }
        let cursor = match command.resource {
            0 => None,
            number => Some(self.cursor_from(number, command.hot)?),
        };
        if cursor != self.cursor {
            self.cursor.clone_from(&cursor);
            self.display.set_cursor(cursor);
        }
        Ok(())
    }

    fn cursor_from(&mut self, number: u32, hot: (u32, u32)) -> Result<Cursor, Failure> {
        let resource = self.find(number)?;
        let (width, height) = (resource.width, resource.height);
        if width > MAX_CURSOR || height > MAX_CURSOR {
            return Err(Failure::Parameter);
        }
        let mut pixels = vec![0; (width * height) as usize * PIXEL];
        for (y, row) in (0..).zip(pixels.chunks_exact_mut(width as usize * PIXEL)) {
            resource.row(0, y, row);
        }
        Ok(Cursor {
            width,
            height,
            hot: (hot.0.min(width - 1), hot.1.min(height - 1)),
            pixels,
        })
    }

    /// What is saved.
    pub(super) fn state(&self) -> GpuState {
        GpuState {
            resources: self.resources.iter().map(GpuState::resource).collect(),
            scanout: self.scanout.map(|shown| ScanoutState {
                resource: shown.resource,
                x: shown.rect.x,
                y: shown.rect.y,
                width: shown.rect.width,
                height: shown.rect.height,
            }),
            cursor: self.cursor.as_ref().map(GpuState::cursor),
            wanted: self.wanted,
            events: self.events,
        }
    }

    /// Takes saved state, on a card at power-on.
    ///
    /// # Errors
    /// What this card could never have come to.
    pub(super) fn restore(&mut self, state: GpuState) -> Result<(), String> {
        let side = MIN_RESOLUTION..=MAX_RESOLUTION;
        if !side.contains(&state.wanted.0) || !side.contains(&state.wanted.1) {
            return Err("the size of the output cannot be".into());
        }
        self.wanted = state.wanted;
        self.events = state.events & EVENT_DISPLAY;
        for saved in state.resources {
            let size = (saved.width, saved.height);
            self.create(saved.id, saved.format, size)
                .map_err(|failure| format!("picture {}: {failure:?}", saved.id))?;
            let room = self.room_for_pieces();
            let resource = self.find(saved.id).map_err(|_| "it is lost".to_string())?;
            GpuState::unpack(&saved.pixels, &mut resource.pixels)?;
            if saved.backing.as_ref().is_some_and(|b| b.len() > room) {
                return Err(format!("picture {} is in too many pieces", saved.id));
            }
            resource.backing = saved.backing.map(Backing::new);
        }
        if let Some(shown) = state.scanout {
            let rect = Rect {
                x: shown.x,
                y: shown.y,
                width: shown.width,
                height: shown.height,
            };
            self.set_scanout(rect, 0, shown.resource)
                .map_err(|failure| format!("the output: {failure:?}"))?;
        }
        if let Some(saved) = state.cursor {
            let sides = 1..=MAX_CURSOR;
            if !sides.contains(&saved.width) || !sides.contains(&saved.height) {
                return Err("the size of the pointer cannot be".into());
            }
            let mut pixels = vec![0; (saved.width * saved.height) as usize * PIXEL];
            GpuState::unpack(&saved.pixels, &mut pixels)?;
            let cursor = Cursor {
                width: saved.width,
                height: saved.height,
                hot: (
                    saved.hot.0.min(saved.width - 1),
                    saved.hot.1.min(saved.height - 1),
                ),
                pixels,
            };
            self.display.set_cursor(Some(cursor.clone()));
            self.cursor = Some(cursor);
        }
        Ok(())
    }
}
