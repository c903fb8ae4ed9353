//! The platforms that every suite runs on, in one place.

/// Makes tests of functions that take a platform's name, one for each platform that suites run on:
/// `on_every_platform!(one, two)` makes `ptrace::one`, `ptrace::two` and so on. A platform that
/// cannot be had makes its tests fail, with the reason.
#[macro_export]
macro_rules! on_every_platform {
    ($($test:ident),+ $(,)?) => {
        $crate::on_platforms! { [ptrace notify] [$($test)+] }
    };
}

/// A module for each platform.
#[doc(hidden)]
#[macro_export]
macro_rules! on_platforms {
    ([$($platform:ident)+] $tests:tt) => {
        $($crate::on_platform! { $platform $tests })+
    };
}

/// One platform's module.
#[doc(hidden)]
#[macro_export]
macro_rules! on_platform {
    ($platform:ident [$($test:ident)+]) => {
        mod $platform {
            $(
                #[test]
                fn $test() {
                    super::$test(stringify!($platform));
                }
            )+
        }
    };
}
