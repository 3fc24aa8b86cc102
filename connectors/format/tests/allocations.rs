//! Decoding a struct of numbers and short strings allocates nothing in steady state, with or without
//! escapes. Counted by an allocator around the system's, hence the only unsafe code here.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use serde::Deserialize;
use thalweg_format::Json;
use thalweg_kernel::{Decode, Message, Str, Timestamp};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on unchanged to the system's allocator; counting touches only a
// thread-local without destructor, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Deserialize)]
struct Reading {
    device: Str,
    site: Option<Str>,
    temp: f64,
    ts: i64,
}

#[test]
fn decoding_in_steady_state_allocates_nothing() {
    let payloads = [
        r#"{"device":"boiler-12345","temp":21.5,"ts":1700000000000,"x":[{"y":"\u00e9"},1]}"#,
        r#"{"dev\u0069ce":"b\u00f6iler\n","temp":123456789.123456789e-3,"ts":1}"#,
    ];
    let bindings = [("site".into(), "north")];
    let mut json = Json::<Reading>::new();
    let mut decode = || {
        for payload in payloads {
            let mut message = Message::new("t", payload.as_bytes(), Timestamp::default());
            message.bindings = &bindings;
            let read = json.decode(&message).unwrap();
            assert!(
                read.device.len() < 24 && read.site.is_some() && read.temp > 0.0 && read.ts > 0
            );
        }
    };
    decode();
    let before = ALLOCATIONS.get();
    (0..100).for_each(|_| decode());
    assert_eq!(ALLOCATIONS.get() - before, 0);
    // The counter counts.
    drop(vec![1]);
    assert!(ALLOCATIONS.get() > before);
}
