//! VNC authentication (RFC 6143 §7.2.2): a challenge, encrypted with the password as a DES key.
//!
//! DES with a key of 56 bits, of which a password gives eight bytes: whoever can listen finds it out.

use des::Des;
use des::cipher::generic_array::GenericArray;
use des::cipher::{BlockEncrypt, KeyInit};

/// Bytes of a challenge and of its answer.
pub(super) const LENGTH: usize = 16;
const BLOCK: usize = 8;

/// What a client answers that knows `password`.
pub(super) fn answer(password: &[u8], challenge: [u8; LENGTH]) -> [u8; LENGTH] {
    let mut key = [0; BLOCK];
    // Bits of each byte the other way round, as the first implementation had them.
    let letters = password.iter().copied().map(u8::reverse_bits);
    key.iter_mut()
        .zip(letters)
        .for_each(|(to, from)| *to = from);
    let des = Des::new(&GenericArray::from(key));
    let mut out = challenge;
    for block in out.chunks_exact_mut(BLOCK) {
        des.encrypt_block(GenericArray::from_mut_slice(block));
    }
    out
}

/// Whether both are equal, in a time that does not tell where they differ.
pub(super) fn equal(a: [u8; LENGTH], b: [u8; LENGTH]) -> bool {
    a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_des_of_the_challenge() {
        // The example of FIPS 81, whose key has its bits the right way round.
        let key = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef_u8].map(u8::reverse_bits);
        let expected = [
            0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15, 0x6a, 0x27, 0x17, 0x87, 0xab, 0x88,
            0x83, 0xf9,
        ];
        assert_eq!(answer(&key, *b"Now is the time "), expected);
        let challenge = *b"0123456789abcdef";
        let right = answer(b"12345678", challenge);
        assert!(equal(right, answer(b"123456789", challenge)));
        assert!(!equal(right, answer(b"1234567", challenge)));
    }
}
