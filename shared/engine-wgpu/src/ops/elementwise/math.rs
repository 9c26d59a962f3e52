//! WGSL functions that the language lacks or leaves too loose: tests by bits, `erf`, accurate trigonometry.
//!
//! Kernels name them; [`needed_by`] puts the text of those they name (and of those these name) in front.

/// Name and text of each function.
const FUNCTIONS: &[(&str, &str)] = &[
    ("is_nan", "fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }"),
    ("is_inf", "fn is_inf(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }"),
    // Through a variable: constants that are not finite are refused by WGSL.
    ("quiet_nan", "fn quiet_nan() -> f32 { var bits = 0x7fc00000u; return bitcast<f32>(bits); }"),
    ("infinity", "fn infinity() -> f32 { var bits = 0x7f800000u; return bitcast<f32>(bits); }"),
    (
        "sign_of",
        "fn sign_of(magnitude: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}",
    ),
    // NaN wins, as in NumPy.
    ("larger", "fn larger(a: f32, b: f32) -> f32 { return select(select(a, b, b > a), b, is_nan(b)); }"),
    ("smaller", "fn smaller(a: f32, b: f32) -> f32 { return select(select(a, b, b < a), b, is_nan(b)); }"),
    // Beyond 15 the answer is 1 in f32, and exp of the argument overflows on some drivers. Small ones by series.
    (
        "tanh_of",
        "fn tanh_of(x: f32) -> f32 {
    let z = x * x;
    let small = ((((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
        - 3.33332819422e-1) * z * x + x;
    let large = sign_of(1.0 - 2.0 / (exp(2.0 * min(abs(x), 15.0)) + 1.0), x);
    return select(select(large, small, abs(x) < 0.625), x, is_nan(x));
}",
    ),
    ("sigmoid_of", "fn sigmoid_of(x: f32) -> f32 { return 1.0 / (1.0 + exp(select(-x, 88.0, x < -88.0))); }"),
    // exp(x) - 1 without cancellation near zero.
    (
        "expm1_of",
        "fn expm1_of(x: f32) -> f32 {
    let series = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.008333334
        + x * (0.0013888889 + x * 0.0001984127))))));
    return select(exp(x) - 1.0, series, abs(x) < 0.5);
}",
    ),
    // log(1 + x) without cancellation near zero: the polynomial of Cephes' logf.
    (
        "log1p_of",
        "fn log1p_of(x: f32) -> f32 {
    let z = x * x;
    let series = ((((((((7.0376836292e-2 * x - 1.1514610310e-1) * x + 1.1676998740e-1) * x - 1.2420140846e-1) * x
        + 1.4249322787e-1) * x - 1.6668057665e-1) * x + 2.0000714765e-1) * x - 2.4999993993e-1) * x
        + 3.3333331174e-1) * x * z - 0.5 * z + x;
    return select(log(1.0 + x), series, x > -0.29 && x < 0.41);
}",
    ),
    ("softplus_of", "fn softplus_of(x: f32) -> f32 { return select(x, 0.0, x < 0.0) + log1p_of(exp(-abs(x))); }"),
    // Two minimax polynomials, below one unit in the last place (Juffa's erff).
    (
        "erf_of",
        "fn erf_of(x: f32) -> f32 {
    let t = abs(x); let s = x * x;
    var r = -1.72853470e-5 * t + 3.83197126e-4;
    let u = -3.88396438e-3 * t + 2.42546219e-2;
    r = r * s + u;
    r = r * t - 1.06777877e-1; r = r * t - 6.34846687e-1; r = r * t - 1.28717512e-1; r = r * t - t;
    let large = sign_of(1.0 - exp(max(r, -80.0)), x);
    var q = -5.96761703e-4;
    q = q * s + 4.99119423e-3; q = q * s - 2.67681349e-2; q = q * s + 1.12819925e-1; q = q * s - 3.76125336e-1;
    q = q * s + 1.28379166e-1;
    let small = q * x + x;
    return select(select(select(large, small, t <= 0.927734375), sign_of(1.0, x), t > 4.0), x, is_nan(x));
}",
    ),
    // Cody and Waite's reduction to a quarter turn, Cephes' polynomials. `turn` is 0 for sine, 1 for cosine.
    (
        "wave",
        "fn wave(x: f32, turn: i32) -> f32 {
    let n = round(x * 0.63661977);
    let r = ((x - n * 1.5703125) - n * 4.837512969970703e-4) - n * 7.549789948768648e-8;
    let z = r * r;
    let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
    let quarter = (i32(n) + turn) & 3;
    let v = select(s, c, (quarter & 1) == 1);
    return select(select(v, -v, quarter >= 2), quiet_nan(), is_inf(x) || is_nan(x));
}",
    ),
    (
        "atan_of",
        "fn atan_of(x: f32) -> f32 {
    let t = abs(x);
    let far = t > 2.414213562373095; let middle = t > 0.4142135623730950;
    let base = select(select(0.0, 0.7853981633974483, middle), 1.5707963267948966, far);
    let r = select(select(t, (t - 1.0) / (t + 1.0), middle), -1.0 / t, far);
    let z = r * r;
    let p = (((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1) * z * r + r;
    return select(sign_of(base + p, x), x, is_nan(x));
}",
    ),
    (
        "asin_of",
        "fn asin_of(x: f32) -> f32 {
    let t = abs(x); let far = t > 0.5;
    let z = select(t * t, 0.5 * (1.0 - t), far);
    let r = select(t, sqrt(max(z, 0.0)), far);
    let p = ((((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z
        + 1.6666752422e-1) * z * r + r;
    return select(sign_of(select(p, 1.5707963267948966 - 2.0 * p, far), x), quiet_nan(), t > 1.0 || is_nan(x));
}",
    ),
    (
        "acos_of",
        "fn acos_of(x: f32) -> f32 {
    let far = 2.0 * asin_of(sqrt(max(0.5 * (1.0 - abs(x)), 0.0)));
    let near = 1.5707963267948966 - asin_of(x);
    let v = select(near, select(far, 3.141592653589793 - far, x < 0.0), abs(x) > 0.5);
    return select(v, quiet_nan(), abs(x) > 1.0 || is_nan(x));
}",
    ),
    (
        "sinh_of",
        "fn sinh_of(x: f32) -> f32 {
    let z = x * x;
    let small = ((2.03721912945e-4 * z + 8.33028376239e-3) * z + 1.66667160211e-1) * z * x + x;
    let half = exp(abs(x) * 0.5);
    let large = sign_of(0.5 * half * half - 0.5 / (half * half), x);
    return select(select(large, small, abs(x) < 1.0), x, is_nan(x));
}",
    ),
    (
        "cosh_of",
        "fn cosh_of(x: f32) -> f32 { let half = exp(abs(x) * 0.5); return 0.5 * half * half + 0.5 / (half * half); }",
    ),
    (
        "asinh_of",
        "fn asinh_of(x: f32) -> f32 {
    let t = abs(x);
    let v = select(log1p_of(t + t * t / (1.0 + sqrt(t * t + 1.0))), log(t) + 0.6931472, t > 1.0e9);
    return select(sign_of(v, x), x, is_nan(x));
}",
    ),
    (
        "acosh_of",
        "fn acosh_of(x: f32) -> f32 {
    let t = x - 1.0;
    let v = select(log1p_of(t + sqrt(max(t * (t + 2.0), 0.0))), log(x) + 0.6931472, x > 1.0e9);
    return select(v, quiet_nan(), x < 1.0 || is_nan(x));
}",
    ),
    (
        "atanh_of",
        "fn atanh_of(x: f32) -> f32 {
    let t = abs(x);
    let v = 0.5 * log1p_of(2.0 * t / (1.0 - t));
    let edge = select(quiet_nan(), infinity(), t == 1.0);
    return sign_of(select(v, edge, t >= 1.0 || is_nan(x)), x);
}",
    ),
    // A power by its exponent's kind: small whole ones by multiplication, the rest by logarithms, signs and zeros apart.
    (
        "power",
        "fn power(a: f32, b: f32) -> f32 {
    if (b == 0.0 || a == 1.0) { return 1.0; }
    if (is_nan(a) || is_nan(b)) { return quiet_nan(); }
    let whole = is_inf(b) || trunc(b) == b;
    if (whole && abs(b) <= 64.0) {
        var n = u32(abs(b)); var base = a; var v = 1.0;
        while (n > 0u) { if ((n & 1u) == 1u) { v = v * base; } base = base * base; n = n >> 1u; }
        return select(v, 1.0 / v, b < 0.0);
    }
    if (b == 0.5) { return select(sqrt(max(a, 0.0)), select(quiet_nan(), infinity(), is_inf(a)), a < 0.0); }
    let odd = abs(b) < 16777216.0 && trunc(b * 0.5) * 2.0 != b;
    var v = 0.0;
    if (a == 0.0) { v = select(0.0, infinity(), b < 0.0); }
    else if (is_inf(a)) { v = select(infinity(), 0.0, b < 0.0); }
    else if (abs(a) == 1.0) { v = 1.0; }
    else { v = exp2(b * log2(abs(a))); }
    if (a < 0.0 && !whole && !is_inf(a)) { return quiet_nan(); }
    return select(v, -v, whole && odd && (bitcast<u32>(a) >> 31u) == 1u);
}",
    ),
    (
        "power_i32",
        "fn power_i32(a: i32, b: i32) -> i32 {
    if (b < 0) { return select(select(0, select(1, -1, (b & 1) != 0), a == -1), 1, a == 1); }
    var n = u32(b); var base = a; var v = 1;
    while (n > 0u) { if ((n & 1u) == 1u) { v = v * base; } base = base * base; n = n >> 1u; }
    return v;
}",
    ),
    // GLSL leaves `%` of negative numbers undefined, and OpenGL drivers do differ; division rounds to zero everywhere.
    ("remainder_i32", "fn remainder_i32(a: i32, b: i32) -> i32 { return a - b * (a / b); }"),
    (
        "remainder",
        "fn remainder(a: f32, b: f32) -> f32 {
    if (is_nan(a) || is_nan(b) || is_inf(a) || b == 0.0) { return quiet_nan(); }
    if (is_inf(b)) { return a; }
    var r = fma(-trunc(a / b), b, a);
    // The quotient may have been rounded over the next whole number.
    if (r != 0.0 && (r < 0.0) != (a < 0.0)) { r = r + select(-abs(b), abs(b), a > 0.0); }
    if (abs(r) >= abs(b)) { r = r - sign_of(b, r); }
    return sign_of(r, a);
}",
    ),
    (
        "modulo",
        "fn modulo(a: f32, b: f32) -> f32 {
    let r = remainder(a, b);
    if (is_nan(r)) { return r; }
    if (r == 0.0) { return sign_of(0.0, b); }
    return select(r, select(r + b, b, is_inf(b)), (r < 0.0) != (b < 0.0));
}",
    ),
    // To half precision and back, to the nearest, ties to even.
    (
        "to_f16",
        "fn to_f16(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return x; }
    if (magnitude >= 0x477ff000u) { return sign_of(infinity(), x); }
    if (magnitude < 0x38800000u) { return round(x * 16777216.0) / 16777216.0; }
    return bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
}",
    ),
    (
        "to_bf16",
        "fn to_bf16(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if (is_nan(x)) { return x; }
    return bitcast<f32>((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u);
}",
    ),
];

/// The functions that a kernel's text calls, directly or through another.
pub(crate) fn needed_by(text: &str) -> String {
    needed_of(FUNCTIONS, text)
}

/// Returns the functions of a table of names and bodies that a text calls, directly or through another, as WGSL.
pub(super) fn needed_of(functions: &[(&str, &str)], text: &str) -> String {
    let mut needed = vec![false; functions.len()];
    let mut waiting = vec![text];
    while let Some(text) = waiting.pop() {
        for (at, (name, body)) in functions.iter().enumerate() {
            if !needed[at] && text.contains(&format!("{name}(")) {
                needed[at] = true;
                waiting.push(body);
            }
        }
    }
    let bodies = functions.iter().zip(needed).filter(|(_function, needed)| *needed);
    bodies.map(|((_name, body), _needed)| format!("{body}\n")).collect()
}
