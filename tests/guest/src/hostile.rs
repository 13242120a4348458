//! A driver that means harm. Each attack is one that a careful device must outlive: the device may ask
//! for a reset, or answer nothing, but after a reset it serves a proper request again, and the machine
//! goes on. What it sends is as wrong as can be; what it expects is only that.

mod attacks;
mod console;
mod random;
mod victim;

use crate::boot::Boot;
use crate::say;
use attacks::ATTACKS;
use random::Random;
use victim::Victim;

/// Test: all attacks on the disk, on the entropy source, on a console's control queue and one of its ports,
/// with `net=1` on both sides of a network card, with `balloon=1` on a balloon and with `screen=1` on a graphics
/// card and a keyboard, then `rounds=` random ones from `seed=`.
pub fn test(boot: &Boot) {
    let mut random = Random::new(boot.number("seed", 1));
    let rounds = boot.number("rounds", 300);
    say!("ready");
    let network = boot.number("net", 0) != 0;
    let balloon = boot.number("balloon", 0) != 0;
    let screen = boot.number("screen", 0) != 0;
    let mut victims = [
        Some(Victim::disk()),
        Some(Victim::entropy()),
        Some(Victim::control()),
        Some(Victim::port()),
        network.then(Victim::transmitter),
        network.then(Victim::receiver),
        balloon.then(Victim::deflator),
        balloon.then(Victim::reporter),
        screen.then(Victim::screen),
        screen.then(Victim::cursor),
        screen.then(Victim::keyboard),
    ];
    let count = victims.iter().flatten().count();
    for victim in victims.iter_mut().flatten() {
        victim.serves("before any attack");
        for (name, attack) in ATTACKS {
            victim.arm();
            attack(victim);
            victim.serves(name);
        }
        if victim.is_control() {
            victim.arm();
            console::attack(victim);
            victim.serves("messages that make no sense");
        }
        say!("hostile: {} attacks on {}", ATTACKS.len(), victim.name);
    }
    for round in 0..rounds {
        let Some(victim) = victims.iter_mut().flatten().nth(round as usize % count) else {
            continue;
        };
        victim.arm();
        random.attack(victim);
        if round / count as u64 % 8 == 7 {
            victim.serves("random bytes");
        }
    }
    say!("hostile: {rounds} random attacks");
    random::ports(&mut random);
    let mut before = None;
    for victim in victims.iter_mut().flatten() {
        // One of each device's queues will do.
        if before.replace(victim.kind) == Some(victim.kind) {
            continue;
        }
        say!("hostile: configuration of {}", victim.name);
        random::configuration(&mut random, victim);
        say!("hostile: {} configuration writes", random::WRITES);
        victim.serves("configuration writes");
    }
    say!("hostile: configuration and ports");
}
