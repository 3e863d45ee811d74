//! Workload in Rust with an oracle: a method of a struct, a trait's method and a generic function; about 55, 30, 15 %.

mod hot {
    pub struct Mill {
        pub factor: u64,
    }
    impl Mill {
        #[inline(never)]
        pub fn grind(&self, mut seed: u64, iterations: u64) -> u64 {
            for i in 0..iterations {
                seed = (seed ^ i).wrapping_mul(self.factor).rotate_left(5);
            }
            seed
        }
    }
    pub trait Stir {
        fn stir(&self, seed: u64, iterations: u64) -> u64;
    }
    impl Stir for Mill {
        #[inline(never)]
        fn stir(&self, mut seed: u64, iterations: u64) -> u64 {
            for i in 0..iterations {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(i ^ self.factor);
            }
            seed
        }
    }
    #[inline(never)]
    pub fn sift(mut seed: u64, iterations: u64) -> u64 {
        for i in 0..iterations {
            seed ^= (seed << 9) ^ (seed >> 3) ^ i;
        }
        seed
    }
}

use hot::Stir;
use std::sync::atomic::{AtomicBool, Ordering};

#[repr(C)]
struct Timespec {
    sec: i64,
    nsec: i64,
}
extern "C" {
    fn clock_gettime(clock: i32, ts: *mut Timespec) -> i32;
    fn signal(signo: i32, handler: extern "C" fn(i32)) -> usize;
}
const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
const CLOCK_THREAD_CPUTIME_ID: i32 = 3;

fn clock_ns(clock: i32) -> u64 {
    let mut ts = Timespec { sec: 0, nsec: 0 };
    unsafe { clock_gettime(clock, &mut ts) };
    ts.sec as u64 * 1_000_000_000 + ts.nsec as u64
}

static STOP: AtomicBool = AtomicBool::new(false);
extern "C" fn on_signal(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn main() {
    let mut limit_ns = 0u64;
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() == 3 && arguments[1] == "--cpu-seconds" {
        limit_ns = (arguments[2].parse::<f64>().unwrap() * 1e9) as u64;
    }
    unsafe {
        signal(15, on_signal);
        signal(2, on_signal);
    }
    let mill = hot::Mill { factor: 0x100000001b3 };
    let (mut state, mut sink) = (0x9e3779b97f4a7c15u64, 0u64);
    let mut cpu_ns = [0u64; 3];
    println!("started");
    while !STOP.load(Ordering::Relaxed) {
        let which = match random(&mut state) % 100 {
            0..=54 => 0,
            55..=84 => 1,
            _ => 2,
        };
        let iterations = 50_000 + random(&mut state) % 1_500_000;
        let seed = random(&mut state);
        let before = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        let result = match which {
            0 => mill.grind(seed, iterations),
            1 => mill.stir(seed, iterations),
            _ => hot::sift(seed, iterations),
        };
        cpu_ns[which] += clock_ns(CLOCK_THREAD_CPUTIME_ID) - before;
        sink = sink.wrapping_add(result);
        if limit_ns != 0 && clock_ns(CLOCK_PROCESS_CPUTIME_ID) >= limit_ns {
            break;
        }
    }
    println!(
        "{{\"functions\":{{\"w_rust::hot::Mill::grind\":{},\"<w_rust::hot::Mill as w_rust::hot::Stir>::stir\":{},\
         \"w_rust::hot::sift\":{}}},\"sink\":{},\"process_cpu_ns\":{}}}",
        cpu_ns[0],
        cpu_ns[1],
        cpu_ns[2],
        sink & 1,
        clock_ns(CLOCK_PROCESS_CPUTIME_ID)
    );
}
