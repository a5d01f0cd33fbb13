//! Which vector instructions this processor has, found once at run time.

use std::sync::OnceLock;

/// The instruction sets there is code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, VL, BW, DQ with FMA: 16 floats at a time.
    Avx512,
    /// AVX2 with FMA: 8 floats at a time.
    Avx2,
    /// Whatever the target's baseline gives (SSE2, NEON).
    Portable,
}

/// An instruction set that this processor has been seen to have. Holding one is the proof that code compiled for
/// it may run, so its field stays private to this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(Level);

impl Isa {
    /// The widest set this processor has, or a narrower one that the environment asks for.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let found = Self::available();
            let asked = match std::env::var("KIRIE_KERNELS_ISA").as_deref() {
                Ok("avx2") => Some(Self(Level::Avx2)),
                Ok("portable") => Some(Self(Level::Portable)),
                _ => None,
            };
            // Only ever a set that was found: an `Isa` is a proof.
            asked.filter(|asked| found.contains(asked)).unwrap_or(found[0])
        })
    }

    /// Every set this processor has, widest first.
    pub(crate) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
            {
                found.push(Self(Level::Avx512));
            }
            if avx2 {
                found.push(Self(Level::Avx2));
            }
        }
        found.push(Self(Level::Portable));
        found
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }

    /// Floats in one vector of the matrix kernels.
    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            Level::Avx512 => 16,
            Level::Avx2 => 8,
            Level::Portable => 4,
        }
    }
}

/// How `a * b + c` is computed: fused where that is one instruction, and never by the library call that a plain
/// `mul_add` becomes on a target without it.
pub(crate) trait Arithmetic {
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding, one instruction.
pub(crate) struct Fused;
impl Arithmetic for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// The target's baseline: fused where the baseline has it (AArch64).
pub(crate) struct Baseline;
impl Arithmetic for Baseline {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Compiles one plain function, whose loops the compiler vectorises, for each instruction set, and calls the one that
/// the first argument names. `$f` is the [`Arithmetic`] inside the body.
macro_rules! for_each_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$f:ident>($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name($isa: $crate::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            fn body<$f: $crate::isa::Arithmetic>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::isa::Fused>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::isa::Fused>($($arg),*)
            }
            match $isa.level() {
                // SAFETY: an `Isa` of this level exists only where the processor was seen to have these features.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<$crate::isa::Baseline>($($arg),*),
            }
        }
    };
}
pub(crate) use for_each_isa;
