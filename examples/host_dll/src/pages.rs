//! The pages of a DLL's image, as `VirtualQuery` and `VirtualProtect` show them.

use crate::address::Address;
use crate::host::Host;
use crate::image::Region;
use crate::thread::LAST_ERROR;

/// `MEMORY_BASIC_INFORMATION`.
#[repr(C)]
struct MemoryInformation {
    base_address: usize,
    allocation_base: usize,
    allocation_protection: u32,
    partition: u16,
    region_size: usize,
    state: u32,
    protection: u32,
    kind: u32,
}

const _: () = assert!(size_of::<MemoryInformation>() == 48);

const MEM_COMMIT: u32 = 0x1000;
const MEM_IMAGE: u32 = 0x100_0000;
const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_EXECUTE_READ: u32 = 0x20;

fn windows_protection(region: &Region) -> u32 {
    match region.protection {
        protection if protection & libc::PROT_EXEC != 0 => PAGE_EXECUTE_READ,
        protection if protection & libc::PROT_WRITE != 0 => PAGE_READWRITE,
        _ => PAGE_READONLY,
    }
}

/// "VirtualQuery", for addresses in the image.
pub fn query(host: &Host, address: Address, answer: Address, length: usize) -> usize {
    let (Some(region), true) = (host.region(address), length >= size_of::<MemoryInformation>()) else { return 0 };
    let information = MemoryInformation {
        base_address: region.addresses.start,
        allocation_base: host.regions.first().map_or(0, |region| region.addresses.start),
        allocation_protection: PAGE_READONLY,
        partition: 0,
        region_size: region.addresses.len(),
        state: MEM_COMMIT,
        protection: windows_protection(region),
        kind: MEM_IMAGE,
    };
    answer.put(information);
    size_of::<MemoryInformation>()
}

/// "VirtualProtect", for data of the image. Code stays as it is, and nothing becomes code.
pub fn protect(host: &Host, address: Address, size: usize, protection: u32, former: Address) -> i32 {
    const ERROR_ACCESS_DENIED: u32 = 5;
    let linux = match protection {
        PAGE_READONLY => Some(libc::PROT_READ),
        PAGE_READWRITE => Some(libc::PROT_READ | libc::PROT_WRITE),
        _ => None,
    };
    let region = host
        .region(address)
        .filter(|region| region.protection & libc::PROT_EXEC == 0 && size <= region.addresses.end - address.number());
    if let (Some(linux), Some(region)) = (linux, region) {
        let offset = address.number() & 0xfff;
        let start = Address::of_number(address.number() - offset);
        // SAFETY: the pages belong to one data section of the image, whose protection is the DLL's to choose.
        if unsafe { libc::mprotect(start.cast(), size + offset, linux) } == 0 {
            former.put(windows_protection(region));
            return 1;
        }
    }
    host.log().push(format!("VirtualProtect to {protection:#x} was refused"));
    LAST_ERROR.set(ERROR_ACCESS_DENIED);
    0
}
