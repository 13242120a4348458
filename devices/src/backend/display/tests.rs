//! A display with a painter, viewers and a keyboard.

use super::*;

struct Keys(Mutex<Vec<Vec<Event>>>);

impl InputSink for Keys {
    fn model(&self) -> InputModel {
        InputModel::Keyboard
    }
    fn group(&self, events: &[Event]) {
        lock(&self.0).push(events.to_vec());
    }
}

#[test]
fn before_anything_is_painted_all_is_black_and_takes_no_memory() {
    let display = Display::default();
    let viewer = display.look();
    let news = viewer.take().expect("a first picture");
    assert_eq!((news.size, news.cursor), (None, false));
    assert_eq!(news.rects, [Rect::of(640, 480)]);
    assert!(viewer.take().is_none());
    assert_eq!(display.copy(Rect::of(640, 480)), vec![0; 640 * 480 * 4]);
    assert!(lock(&display.0).surface.pixels.is_empty());
}

#[test]
fn each_viewer_has_its_own_account_of_what_it_has_not_seen() {
    let display = Display::default();
    let (quick, slow) = (display.look(), display.look());
    assert!(quick.take().is_some());
    display.resize(200, 100);
    let rect = Rect {
        x: 190,
        y: 98,
        width: 100,
        height: 100,
    };
    assert!(quick.take().is_some());
    display.paint(rect, |y, row| row.fill(y as u8));
    let news = quick.take().expect("news");
    assert_eq!((news.size, news.rects.len()), (None, 1));
    let news = slow.take().expect("news");
    assert_eq!(news.size, Some((200, 100)));
    assert_eq!(news.rects, [Rect::of(200, 100)]);
    let seen = display.copy(Rect {
        x: 188,
        y: 97,
        width: 4,
        height: 3,
    });
    let mut expected = vec![0; 3 * 16];
    expected[24..32].fill(98);
    expected[40..48].fill(99);
    assert_eq!(seen, expected);
    // A part that is not there any more is black.
    display.blank();
    assert_eq!(display.copy(Rect::of(700, 2)), vec![0; 700 * 2 * 4]);
    drop(slow);
    display.set_cursor(None);
    assert!(quick.take().expect("news").cursor);
    assert_eq!(lock(&display.0).viewers.len(), 1);
}

#[test]
fn keys_go_to_the_keyboard_that_is_there() {
    let display = Display::default();
    assert!(!display.key(28, true), "nobody has a keyboard");
    let keys = Arc::new(Keys(Mutex::default()));
    let sink: Arc<dyn InputSink> = keys.clone();
    display.add_input(Arc::downgrade(&sink));
    assert!(display.key(28, true) && !display.key(0, true) && !display.key(0x100, true));
    assert!(!display.pointer(Pointer::default()), "it does not point");
    assert!(!display.wish(800, 600), "there is no graphics card");
    assert_eq!(
        *lock(&keys.0),
        [vec![Event::new(code::EV_KEY, 28, 1), Event::SYN]]
    );
}
