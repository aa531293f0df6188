//! Longer texts, each about one use of this crate; and what it promises when something goes wrong.

// Its code is that of programs which the tests run on Windows: `tests/windows/guide`.
#[cfg(not(doctest))]
#[doc = include_str!("../docs/windows.md")]
pub mod windows_in_ten_minutes {}

#[doc = include_str!("../docs/embed-in-a-runtime.md")]
pub mod embed_in_a_runtime {}

#[doc = include_str!("../docs/c.md")]
pub mod use_from_c {}

#[doc = include_str!("../docs/libffi.md")]
pub mod use_with_libffi {}

#[doc = include_str!("../docs/uefi.md")]
pub mod use_in_uefi {}

#[doc = include_str!("../docs/kernel-and-driver.md")]
pub mod use_in_a_kernel_or_driver {}

#[doc = include_str!("../docs/host-windows-code.md")]
pub mod host_windows_code {}

#[doc = include_str!("../docs/migrate.md")]
pub mod migrate_from_thunks {}

#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits_and_other_tools {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}
