//! A set of named features.

use super::features::{COUNT, FIXED, Feature, PARAVIRTUAL, Register, WORDS, is_no_name};
use std::fmt;

/// A set of features; bits without a name are never in it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Set([u32; COUNT]);

impl Set {
    /// The features with these names; a name that is not known is given back.
    ///
    /// # Errors
    /// The first unknown name.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut set = Self::default();
        for name in names {
            set.insert(Feature::named(name).ok_or(name)?);
        }
        Ok(set)
    }

    /// The named bits that `value` finds set.
    pub(super) fn read(value: impl Fn(u32, u32, Register) -> u32) -> Self {
        let mut set = Self::default();
        for (own, word) in set.0.iter_mut().zip(WORDS) {
            *own = value(word.leaf, word.subleaf, word.register);
        }
        set.intersection(&Self::EVERYTHING)
    }

    /// Every bit that has a name. A machine's start asks for it again and again, so it is made when
    /// this is compiled.
    const EVERYTHING: Self = {
        let mut set = [0; COUNT];
        let mut word = 0;
        while word < COUNT {
            let names = WORDS[word].names;
            let mut bit = 0;
            while bit < names.len() {
                if !is_no_name(names[bit]) {
                    set[word] |= 1 << bit;
                }
                bit += 1;
            }
            word += 1;
        }
        Self(set)
    };

    /// Every feature that has a name.
    pub fn every() -> Self {
        Self::EVERYTHING
    }

    /// Every feature of the processor: without the hypervisor's own.
    pub fn processor() -> Self {
        let mut set = Self::EVERYTHING;
        set.0[PARAVIRTUAL] = 0;
        set
    }

    /// The hypervisor's own features.
    pub fn paravirtual() -> Self {
        Self::EVERYTHING.minus(&Self::processor())
    }

    /// Features that KVM gives as the host has them.
    pub(super) fn fixed() -> Self {
        let mut set = Self::default();
        set.0[FIXED] = Self::EVERYTHING.0[FIXED];
        set
    }

    /// Whether it has the feature.
    pub fn contains(&self, feature: Feature) -> bool {
        self.0
            .get(feature.word)
            .is_some_and(|word| word >> feature.bit & 1 != 0)
    }

    /// Whether it has the feature with this name.
    pub fn has(&self, name: &str) -> bool {
        Feature::named(name).is_some_and(|feature| self.contains(feature))
    }

    /// Puts a feature in.
    pub fn insert(&mut self, feature: Feature) {
        if let Some(word) = self.0.get_mut(feature.word) {
            *word |= 1 << feature.bit;
        }
    }

    /// Takes a feature out.
    pub fn remove(&mut self, feature: Feature) {
        if let Some(word) = self.0.get_mut(feature.word) {
            *word &= !(1 << feature.bit);
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// What is here and not there.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    fn combine(&self, other: &Self, with: impl Fn(u32, u32) -> u32) -> Self {
        let mut result = *self;
        for (own, other) in result.0.iter_mut().zip(other.0) {
            *own = with(*own, other);
        }
        result
    }

    /// Whether `other` has everything that is here.
    pub fn is_within(&self, other: &Self) -> bool {
        self.minus(other).is_empty()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many features are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Its features in the order of the words.
    pub fn features(self) -> impl Iterator<Item = Feature> {
        Feature::all().filter(move |feature| self.contains(*feature))
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.features().map(Feature::name).collect()
    }

    /// The bits of one word, where any bit of it has a name.
    pub fn word(&self, leaf: u32, subleaf: u32, register: Register) -> Option<u32> {
        let same = |(_, word): &(&u32, &super::Word)| {
            (word.leaf, word.subleaf, word.register) == (leaf, subleaf, register)
        };
        let found = self.0.iter().zip(WORDS).find(same);
        found.map(|(bits, _)| *bits)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
