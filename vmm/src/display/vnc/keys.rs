//! Keys: from what a client means (keysyms of X) or presses (scancodes) to Linux's codes. Pure.
//!
//! A scancode names a place on the keyboard, so the guest's own layout decides what it means; clients
//! that know the extension send it. A keysym names a letter: it is taken to the key that has it on an
//! American keyboard, where the guest should have that layout too.

/// Keys of letters and signs on an American keyboard: `(plain, shifted, code)`.
const SIGNS: &[(u8, u8, u16)] = &[
    (b'1', b'!', 2),
    (b'2', b'@', 3),
    (b'3', b'#', 4),
    (b'4', b'$', 5),
    (b'5', b'%', 6),
    (b'6', b'^', 7),
    (b'7', b'&', 8),
    (b'8', b'*', 9),
    (b'9', b'(', 10),
    (b'0', b')', 11),
    (b'-', b'_', 12),
    (b'=', b'+', 13),
    (b'[', b'{', 26),
    (b']', b'}', 27),
    (b';', b':', 39),
    (b'\'', b'"', 40),
    (b'`', b'~', 41),
    (b'\\', b'|', 43),
    (b',', b'<', 51),
    (b'.', b'>', 52),
    (b'/', b'?', 53),
    (b' ', b' ', 57),
];

/// The rows of letters, and the code of each row's first key.
const LETTERS: [(&[u8], u16); 3] = [(b"qwertyuiop", 16), (b"asdfghjkl", 30), (b"zxcvbnm", 44)];

/// Keysyms that are no letters: `(keysym, code)`.
const NAMED: &[(u32, u16)] = &[
    (0xff08, 14),  // BackSpace
    (0xff09, 15),  // Tab
    (0xfe20, 15),  // ISO_Left_Tab
    (0xff0d, 28),  // Return
    (0xff13, 119), // Pause
    (0xff14, 70),  // Scroll_Lock
    (0xff15, 99),  // Sys_Req
    (0xff1b, 1),   // Escape
    (0xff50, 102), // Home
    (0xff51, 105), // Left
    (0xff52, 103), // Up
    (0xff53, 106), // Right
    (0xff54, 108), // Down
    (0xff55, 104), // Prior
    (0xff56, 109), // Next
    (0xff57, 107), // End
    (0xff61, 99),  // Print
    (0xff63, 110), // Insert
    (0xff67, 127), // Menu
    (0xff6b, 119), // Break
    (0xff7e, 100), // Mode_switch
    (0xff7f, 69),  // Num_Lock
    (0xff8d, 96),  // KP_Enter
    (0xff95, 71),  // KP_Home
    (0xff96, 75),  // KP_Left
    (0xff97, 72),  // KP_Up
    (0xff98, 77),  // KP_Right
    (0xff99, 80),  // KP_Down
    (0xff9a, 73),  // KP_Prior
    (0xff9b, 81),  // KP_Next
    (0xff9c, 79),  // KP_End
    (0xff9d, 76),  // KP_Begin
    (0xff9e, 82),  // KP_Insert
    (0xff9f, 83),  // KP_Delete
    (0xffaa, 55),  // KP_Multiply
    (0xffab, 78),  // KP_Add
    (0xffad, 74),  // KP_Subtract
    (0xffae, 83),  // KP_Decimal
    (0xffaf, 98),  // KP_Divide
    (0xffb0, 82),  // KP_0
    (0xffb1, 79),  // KP_1
    (0xffb2, 80),  // KP_2
    (0xffb3, 81),  // KP_3
    (0xffb4, 75),  // KP_4
    (0xffb5, 76),  // KP_5
    (0xffb6, 77),  // KP_6
    (0xffb7, 71),  // KP_7
    (0xffb8, 72),  // KP_8
    (0xffb9, 73),  // KP_9
    (0xffbd, 117), // KP_Equal
    (0xffc8, 87),  // F11
    (0xffc9, 88),  // F12
    (0xffe1, 42),  // Shift_L
    (0xffe2, 54),  // Shift_R
    (0xffe3, 29),  // Control_L
    (0xffe4, 97),  // Control_R
    (0xffe5, 58),  // Caps_Lock
    (0xffe7, 125), // Meta_L
    (0xffe8, 126), // Meta_R
    (0xffe9, 56),  // Alt_L
    (0xffea, 100), // Alt_R
    (0xfe03, 100), // ISO_Level3_Shift
    (0xffeb, 125), // Super_L
    (0xffec, 126), // Super_R
    (0xffff, 111), // Delete
];

/// Scancodes behind the prefix 0xe0: `(second byte, code)`.
const PREFIXED: &[(u8, u16)] = &[
    (0x10, 165),
    (0x19, 163),
    (0x1c, 96),
    (0x1d, 97),
    (0x20, 113),
    (0x22, 164),
    (0x24, 166),
    (0x2e, 114),
    (0x30, 115),
    (0x32, 172),
    (0x35, 98),
    (0x37, 99),
    (0x38, 100),
    (0x46, 119),
    (0x47, 102),
    (0x48, 103),
    (0x49, 104),
    (0x4b, 105),
    (0x4d, 106),
    (0x4f, 107),
    (0x50, 108),
    (0x51, 109),
    (0x52, 110),
    (0x53, 111),
    (0x5b, 125),
    (0x5c, 126),
    (0x5d, 127),
    (0x5e, 116),
    (0x5f, 142),
];

/// The key that has this keysym.
pub(super) fn of_keysym(keysym: u32) -> Option<u16> {
    if let 0x20..=0x7e = keysym {
        return of_letter(u8::try_from(keysym).ok()?);
    }
    if let 0xffbe..=0xffc7 = keysym {
        // F1 to F10.
        return u16::try_from(keysym - 0xffbe + 59).ok();
    }
    let named = NAMED.iter().find(|(other, _)| *other == keysym);
    named.map(|(_, code)| *code)
}

fn of_letter(letter: u8) -> Option<u16> {
    let lower = letter.to_ascii_lowercase();
    for (row, first) in LETTERS {
        if let Some(at) = row.iter().position(|other| *other == lower) {
            return Some(first + u16::try_from(at).ok()?);
        }
    }
    let has = |(plain, shifted, _): &&(u8, u8, u16)| *plain == letter || *shifted == letter;
    SIGNS.iter().find(has).map(|(_, _, code)| *code)
}

/// The key with this scancode of the first set; codes with the prefix 0xe0 have the highest bit of
/// their byte set, or the prefix above it.
pub(super) fn of_scancode(scancode: u32) -> Option<u16> {
    match scancode {
        // Print with Alt, and F16.
        0x54 => Some(99),
        0x55 => Some(186),
        // Up to F12 both count alike.
        1..=0x58 => u16::try_from(scancode).ok(),
        0x80..=0xff | 0xe000..=0xe07f => {
            let byte = u8::try_from(scancode & 0x7f).ok()?;
            let found = PREFIXED.iter().find(|(other, _)| *other == byte);
            found.map(|(_, code)| *code)
        }
        // Hiragana, Henkan, Muhenkan, Yen and a comma of the keypad, on Japanese keyboards.
        0x70 => Some(93),
        0x73 => Some(89),
        0x79 => Some(92),
        0x7b => Some(94),
        0x7d => Some(124),
        0x7e => Some(121),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_letter_name_and_place() {
        for (keysym, key) in [
            (u32::from(b'a'), 30),
            (u32::from(b'A'), 30),
            (u32::from(b'm'), 50),
            (u32::from(b'p'), 25),
            (u32::from(b'?'), 53),
            (u32::from(b'0'), 11),
            (0xff0d, 28),
            (0xffbe, 59),
            (0xffc7, 68),
            (0xffc9, 88),
        ] {
            assert_eq!(of_keysym(keysym), Some(key), "{keysym:#x}");
        }
        for letter in 0x20..0x7f {
            assert!(of_keysym(letter).is_some(), "{letter:#x} has no key");
        }
        assert_eq!(of_keysym(0x100_20ac), None);
        for (scancode, key) in [
            (0x1e, 30),
            (0x9d, 97),
            (0xe048, 103),
            (0xc8, 103),
            (0x54, 99),
            (0x58, 88),
        ] {
            assert_eq!(of_scancode(scancode), Some(key), "{scancode:#x}");
        }
        for scancode in [0, 0x59, 0x7f, 0x80, 0x100, u32::MAX] {
            assert_eq!(of_scancode(scancode), None, "{scancode:#x}");
        }
    }
}
