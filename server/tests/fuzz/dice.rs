//! Chance that a seed decides, and what it does to sound inputs.

/// Bytes of an input; what is read from files is larger.
pub(crate) const INPUT_BYTES_MAX: usize = 64 << 10;

/// Choices that a seed decides (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.word() % limit.max(1) as u64).expect("small")
    }
}

/// One of the sound inputs, with a few changes.
pub(crate) fn changed(sound: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = sound[dice.below(sound.len())].clone();
    // Few changes come far, many come to odd places.
    let most = 1 + dice.below(6);
    for _ in 0..=dice.below(most) {
        change(&mut bytes, sound, dice);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, sound: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    match dice.below(10) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, dice.word() as u8),
        2 if !bytes.is_empty() => drop(bytes.remove(at % bytes.len())),
        3 if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] ^= 1 << dice.below(8);
        }
        4 if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)];
        }
        5 => {
            // A number of eight bytes, as lengths and offsets are.
            let word = [0, 1, u64::MAX, 1 << 63, 1 << 31, dice.word()][dice.below(6)];
            for (byte, new) in bytes.iter_mut().skip(at).zip(word.to_le_bytes()) {
                *byte = new;
            }
        }
        6 => {
            let other = &sound[dice.below(sound.len())];
            let from = dice.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        7 if at < bytes.len() => {
            let length = dice.below(64).min(bytes.len() - at);
            repeat(bytes, at, length, 1);
        }
        // So often that whoever holds much for each of them shows it.
        8 if at < bytes.len() && dice.below(8) == 0 => {
            let length = (1 + dice.below(8)).min(bytes.len() - at);
            repeat(bytes, at, length, dice.below(20_000));
        }
        _ => {
            let length = dice.below(20);
            bytes.extend((0..length).map(|_| dice.word() as u8));
        }
    }
}

/// Puts further copies of a part behind it.
fn repeat(bytes: &mut Vec<u8>, at: usize, length: usize, times: usize) {
    let room = INPUT_BYTES_MAX.saturating_sub(bytes.len());
    let part = bytes[at..at + length].repeat(times);
    let part = part.into_iter().take(room.max(length));
    bytes.splice(at..at, part);
}
