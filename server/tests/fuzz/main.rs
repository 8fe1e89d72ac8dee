//! Every decoder gets bytes that nobody meant: sound ones that were cut, changed and mixed at random. It
//! may refuse them; it must not panic, hang, or ask for memory without bound.
//!
//! What is guarded by a checksum is tried twice: as it comes, and with the checksum made right again, so
//! that the decoder behind it is reached.
//!
//! `FUZZ_SECONDS` is the time for all targets together, `FUZZ_SEED` the beginning of the dice;
//! `make fuzz` gives more of both. Whatever fails names the seed of its input; `FUZZ_INPUT` with that
//! number tries this input alone. `FUZZ_TARGET` is a part of the names of the targets that are wanted.

mod dice;
mod framing;
mod instruments;
mod sound;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use dice::{Dice, changed};
use instruments::{start_watchdog, watched};
use targets::{Target, targets};

/// Time for all targets in a run of the tests.
const SECONDS: u64 = 20;
/// Inputs of a target, however slow the machine is.
const INPUTS_MIN: u64 = 50;
/// Memory that an input of no size may take: files are read in pieces of a MiB.
const MEMORY_BYTES_BASE: usize = (1 << 20) + (64 << 10);

#[test]
#[expect(clippy::print_stdout, reason = "tells how much was tried")]
#[expect(
    clippy::disallowed_methods,
    reason = "the time that is given decides how much is tried"
)]
fn nothing_that_comes_from_outside_brings_a_decoder_down() {
    let number = |name| {
        std::env::var(name).ok().map(|text| {
            let number: Result<u64, _> = text.parse();
            number.unwrap_or_else(|_| panic!("{name} is no number"))
        })
    };
    let seconds = number("FUZZ_SECONDS").unwrap_or(SECONDS);
    let mut dice = Dice(number("FUZZ_SEED").unwrap_or(20_261_126));
    check_instruments();
    start_watchdog();
    let (mut targets, _place) = targets();
    if let Ok(part) = std::env::var("FUZZ_TARGET") {
        targets.retain(|target| target.name.contains(&part));
    }
    assert!(!targets.is_empty(), "FUZZ_TARGET names no target");
    let share = Duration::from_millis(seconds * 1000 / targets.len() as u64);
    for target in &targets {
        for sound in &target.sound {
            let taken = (target.read)(sound);
            assert!(taken, "{} refuses a sound input", target.name);
        }
        if let Some(seed) = number("FUZZ_INPUT") {
            attempt(target, seed);
            continue;
        }
        let begun = Instant::now();
        let (mut tried, mut taken) = (0, 0);
        while tried < INPUTS_MIN || begun.elapsed() < share {
            taken += u64::from(attempt(target, dice.word()));
            tried += 1;
        }
        println!("{}: {tried} inputs, {taken} of them taken", target.name);
    }
}

/// Makes the input of `seed` and lets it be read; returns whether it was taken.
fn attempt(target: &Target, seed: u64) -> bool {
    let input = changed(&target.sound, &mut Dice(seed));
    let read = || catch_unwind(AssertUnwindSafe(|| (target.read)(&input)));
    let (result, held) = watched(target.name, seed, read);
    let again = format!("{}; again with FUZZ_INPUT={seed}", target.name);
    let Ok(taken) = result else {
        let hexadecimal: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("panics over {hexadecimal}: {again}");
    };
    let bound = MEMORY_BYTES_BASE + target.memory_per_byte * input.len();
    assert!(
        held <= bound,
        "{} bytes of input took {held} bytes of memory, more than {bound}: {again}",
        input.len()
    );
    taken
}

/// What watches must see what it is to watch.
fn check_instruments() {
    let (bytes, held) = watched("the test itself", 0, || {
        let mut bytes = vec![1u8; 3 << 20];
        bytes.resize(5 << 20, 1);
        drop(vec![1u8; 2 << 20]);
        bytes.len()
    });
    assert_eq!(bytes, 5 << 20);
    assert!((7 << 20..9 << 20).contains(&held), "counted {held} bytes");
}
