//! Integer arithmetic that says when it has no answer: 64-bit results beyond the device's 32 bits, divisions by zero.
//!
//! 32-bit and narrower integers wrap, as they do in ONNX Runtime. Kernels look for a fault only where the ranges of the inputs
//! do not rule it out.

use crate::fault::Fault;
use crate::ir::ElementType;
use crate::lower::Repr;

/// Name and text of each WGSL function; `OVERFLOW`, `ZERO` and `FRACTION` stand for the reports.
const FUNCTIONS: &[(&str, &str)] = &[
    (
        "checked_add_i32",
        "fn checked_add_i32(a: i32, b: i32) -> i32 {
    let sum = a + b;
    if (((a ^ sum) & (b ^ sum)) < 0) { OVERFLOW }
    return sum;
}",
    ),
    ("checked_add_u32", "fn checked_add_u32(a: u32, b: u32) -> u32 { if (a + b < a) { OVERFLOW } return a + b; }"),
    (
        "checked_sub_i32",
        "fn checked_sub_i32(a: i32, b: i32) -> i32 {
    let difference = a - b;
    if (((a ^ b) & (a ^ difference)) < 0) { OVERFLOW }
    return difference;
}",
    ),
    ("checked_sub_u32", "fn checked_sub_u32(a: u32, b: u32) -> u32 { if (a < b) { OVERFLOW } return a - b; }"),
    // The upper word of a product of two words, by halves.
    (
        "upper_product",
        "fn upper_product(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let first = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let second = (a & 0xffffu) * (b >> 16u) + (first & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (first >> 16u) + (second >> 16u);
}",
    ),
    ("magnitude_of", "fn magnitude_of(a: i32) -> u32 { return select(bitcast<u32>(a), 0u - bitcast<u32>(a), a < 0); }"),
    (
        "checked_mul_i32",
        "fn checked_mul_i32(a: i32, b: i32) -> i32 {
    let x = magnitude_of(a); let y = magnitude_of(b);
    let most = select(0x7fffffffu, 0x80000000u, (a < 0) != (b < 0));
    if (upper_product(x, y) != 0u || x * y > most) { OVERFLOW }
    return a * b;
}",
    ),
    (
        "checked_mul_u32",
        "fn checked_mul_u32(a: u32, b: u32) -> u32 { if (upper_product(a, b) != 0u) { OVERFLOW } return a * b; }",
    ),
    (
        "checked_neg_i32",
        "fn checked_neg_i32(a: i32) -> i32 { if (bitcast<u32>(a) == 0x80000000u) { OVERFLOW } return -a; }",
    ),
    (
        "checked_abs_i32",
        "fn checked_abs_i32(a: i32) -> i32 { if (bitcast<u32>(a) == 0x80000000u) { OVERFLOW } return abs(a); }",
    ),
    (
        "checked_div_i32",
        "fn checked_div_i32(a: i32, b: i32) -> i32 {
    if (b == 0) { ZERO return 0; }
    if (b == -1) { return checked_neg_i32(a); }
    return a / b;
}",
    ),
    ("checked_div_u32", "fn checked_div_u32(a: u32, b: u32) -> u32 { if (b == 0u) { ZERO return 0u; } return a / b; }"),
    ("divisor_i32", "fn divisor_i32(b: i32) -> i32 { if (b == 0) { ZERO return 1; } return b; }"),
    ("divisor_u32", "fn divisor_u32(b: u32) -> u32 { if (b == 0u) { ZERO return 1u; } return b; }"),
    (
        "checked_power_i32",
        "fn checked_power_i32(a: i32, b: i32) -> i32 {
    if (b < 0) { return power_i32(a, b); }
    var n = u32(b); var base = a; var v = 1;
    while (n > 0u) {
        if ((n & 1u) == 1u) { v = checked_mul_i32(v, base); }
        n = n >> 1u;
        // The last square is not needed, and one of nothing but 0, 1 and -1 never ends elsewhere.
        if (n > 0u) { base = checked_mul_i32(base, base); }
    }
    return v;
}",
    ),
    (
        "power_u32",
        "fn power_u32(a: u32, b: u32) -> u32 {
    var n = b; var base = a; var v = 1u;
    while (n > 0u) { if ((n & 1u) == 1u) { v = v * base; } base = base * base; n = n >> 1u; }
    return v;
}",
    ),
    (
        "checked_power_u32",
        "fn checked_power_u32(a: u32, b: u32) -> u32 {
    var n = b; var base = a; var v = 1u;
    while (n > 0u) {
        if ((n & 1u) == 1u) { v = checked_mul_u32(v, base); }
        n = n >> 1u;
        if (n > 0u) { base = checked_mul_u32(base, base); }
    }
    return v;
}",
    ),
    (
        "whole_exponent",
        "fn whole_exponent(b: f32) -> i32 { if (b != trunc(b) || abs(b) > 2147483520.0) { FRACTION } return i32(b); }",
    ),
    // By bits, because comparisons with what is not a number are turned around by some drivers.
    (
        "checked_i64",
        "fn checked_i64(x: f32) -> i32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) >= 0x4f000000u && bits != 0xcf000000u) { OVERFLOW }
    return i32(x);
}",
    ),
    (
        "checked_u64",
        "fn checked_u64(x: f32) -> u32 {
    let bits = bitcast<u32>(x); let magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x4f800000u || (bits > 0x80000000u && magnitude >= 0x3f800000u)) { OVERFLOW }
    return u32(x);
}",
    ),
    (
        "shifted_left_i32",
        "fn shifted_left_i32(a: i32, b: i32) -> i32 {
    let shifted = a << (u32(b) & 31u);
    if (a != 0 && (u32(b) >= 32u || (shifted >> (u32(b) & 31u)) != a)) { OVERFLOW }
    return select(shifted, 0, u32(b) >= 32u);
}",
    ),
    (
        "shifted_left_u32",
        "fn shifted_left_u32(a: u32, b: u32) -> u32 {
    if (a != 0u && (b >= 32u || (b > 0u && (a >> (32u - min(b, 31u))) != 0u))) { OVERFLOW }
    return select(a << (b & 31u), 0u, b >= 32u);
}",
    ),
    ("narrowed_i64", "fn narrowed_i64(x: u32) -> i32 { if (x > 0x7fffffffu) { OVERFLOW } return bitcast<i32>(x); }"),
    ("narrowed_u64", "fn narrowed_u64(x: i32) -> u32 { if (x < 0) { OVERFLOW } return bitcast<u32>(x); }"),
];

/// Returns the functions of this file that a text calls, directly or through another, as WGSL.
pub(crate) fn needed_by(text: &str) -> String {
    let all = super::math::needed_of(FUNCTIONS, text);
    all.replace("OVERFLOW", &Fault::Overflow.report())
        .replace("ZERO", &Fault::ZeroDivisor.report())
        .replace("FRACTION", &Fault::FractionalPower.report())
}

/// Returns whether results beyond 32 bits are faults: 64-bit integers do not wrap at 32 bits.
pub(crate) const fn is_wide(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::I64 | ElementType::U64)
}

/// Returns the ending of the checked functions for integers that lie like this; `None` for floats.
pub(crate) const fn suffix(repr: Repr) -> &'static str {
    match repr {
        Repr::I32 | Repr::I8x4 | Repr::F32 => "i32",
        Repr::U32 | Repr::U8x4 => "u32",
    }
}
