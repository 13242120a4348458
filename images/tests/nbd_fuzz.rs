//! The NBD server hears damaged conversations: bounded here, longer with a fuzzer.
//!
//! `IMAGES_FUZZ_ROUNDS` sets how many damaged conversations each seed gives (default 150).
mod common;

use common::Random;
use images::fuzz::nbd_client;

const REQUEST_MAGIC: u32 = 0x2560_9513;

fn option(out: &mut Vec<u8>, number: u32, data: &[u8]) {
    out.extend(b"IHAVEOPT");
    out.extend(number.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

fn request(out: &mut Vec<u8>, kind: u16, flags: u16, offset: u64, len: u32) {
    out.extend(REQUEST_MAGIC.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(out.len().to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
}

/// Every request there is, in both kinds of replies.
fn seeds() -> Vec<Vec<u8>> {
    let mut structured = 3u32.to_be_bytes().to_vec();
    option(&mut structured, 3, &[]);
    option(&mut structured, 5, &[]);
    option(&mut structured, 8, &[]);
    let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
    query.extend(b"base:allocation");
    option(&mut structured, 9, &query);
    option(&mut structured, 10, &query);
    option(&mut structured, 6, &[0, 0, 0, 0, 0, 3, 0, 1, 0, 2, 0, 3]);
    option(&mut structured, 7, &[0, 0, 0, 0, 0, 1, 0, 3]);
    let mut plain = 1u32.to_be_bytes().to_vec();
    option(&mut plain, 1, &[]);
    for seed in [&mut structured, &mut plain] {
        request(seed, 0, 0, 4096, 8192);
        request(seed, 0, 4, 1, 3);
        request(seed, 1, 1, 512, 700);
        seed.extend([5; 700]);
        request(seed, 3, 0, 0, 0);
        request(seed, 4, 1, 8192, 65536);
        request(seed, 6, 2 | 16, 100, 50_000);
        request(seed, 6, 0, 0, 4096);
        request(seed, 5, 0, 0, 262_144);
        request(seed, 7, 0, 0, 262_144);
        request(seed, 7, 8, 7, 100);
        request(seed, 0, 0, 262_143, 2);
        request(seed, 0, 0, 0, 0);
        request(seed, 2, 0, 0, 0);
    }
    vec![structured, plain]
}

#[test]
fn damaged_conversations_end() {
    let rounds = std::env::var("IMAGES_FUZZ_ROUNDS");
    let rounds: u64 = rounds.ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    for (n, seed) in seeds().into_iter().enumerate() {
        let mut r = Random::new(n as u64 + 1);
        nbd_client(&seed);
        for _ in 0..rounds {
            let mut bytes = seed.clone();
            for _ in 0..r.below(4) + 1 {
                let at = r.below(bytes.len() as u64) as usize;
                match r.below(4) {
                    0 => bytes[at] ^= 1 << r.below(8),
                    1 => bytes[at] = r.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                    2 => drop(bytes.drain(at..(at + 4).min(bytes.len()))),
                    _ => {
                        let end = (at + r.below(64) as usize).min(bytes.len());
                        bytes.extend_from_within(at..end);
                    }
                }
            }
            if r.below(8) == 0 {
                bytes.truncate(r.below(bytes.len() as u64) as usize);
            }
            nbd_client(&bytes);
        }
    }
    nbd_client(&[]);
}
