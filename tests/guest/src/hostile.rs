//! A driver that means harm. Each attack is one that a careful device must outlive: the device may ask
//! for a reset, or answer nothing, but after a reset it serves a proper request again, and the machine
//! goes on. What it sends is as wrong as can be; what it expects is only that.

mod attacks;
mod random;
mod victim;

use crate::boot::Boot;
use crate::say;
use attacks::ATTACKS;
use random::Random;
use victim::Victim;

/// Test: all attacks on the disk and on the entropy source, then `rounds=` random ones from `seed=`.
pub fn test(boot: &Boot) {
    let mut random = Random::new(boot.number("seed", 1));
    let rounds = boot.number("rounds", 300);
    say!("ready");
    let mut victims = [Victim::disk(), Victim::entropy()];
    for victim in &mut victims {
        victim.serves("before any attack");
        for (name, attack) in ATTACKS {
            victim.arm();
            attack(victim);
            victim.serves(name);
        }
        say!("hostile: {} attacks on {}", ATTACKS.len(), victim.name);
    }
    for round in 0..rounds {
        let victim = &mut victims[(round % 2) as usize];
        victim.arm();
        random.attack(victim);
        if round % 16 == 15 {
            victim.serves("random bytes");
        }
    }
    say!("hostile: {rounds} random attacks");
    random::ports(&mut random);
    for victim in &mut victims {
        random::configuration(&mut random, victim);
        victim.serves("configuration writes");
    }
    say!("hostile: configuration and ports");
}
