//! From the bytes of a PE file to a mapped image.
//!
//! All work on the file's contents is done in safe code, on a [`Draft`]: an ordinary vector that looks as the image
//! will look. Only when every section has been placed, every address relocated and every import bound is it copied to
//! its place, and each section gets its protection. So a damaged file ends in an error, never in a bad access, and no
//! page is ever writable and executable at once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::null_mut;

use object::read::pe::{ExportTarget, ImageNtHeaders as _, ImageOptionalHeader as _, ImageThunkData as _, PeFile64};
use object::{FileKind, LittleEndian as LE, pe};

use crate::Result;

const PAGE: u32 = 4096;

/// More than any DLL needs, and little enough to allocate on the word of a damaged header.
const LARGEST: u32 = 512 << 20;

/// What the DLL wants from another one.
pub struct ImportEntry {
    pub dll: String,
    pub name: String,
    /// Where in the image the address goes.
    place: u32,
}

/// A part of the image with a protection of its own.
#[derive(Clone)]
pub struct Region {
    pub addresses: Range<usize>,
    /// `PROT_*` of mmap(2).
    pub protection: i32,
}

/// The template of thread-local variables, and functions to call beside the entry point.
#[derive(Default)]
struct Tls {
    template: Vec<u8>,
    callbacks: Vec<usize>,
}

/// An image in the making.
pub struct Draft {
    memory: Vec<u8>,
    place: Reservation,
    /// The headers, then the sections, by address.
    pub regions: Vec<Region>,
    pub imports: Vec<ImportEntry>,
    exports: HashMap<String, u32>,
    entry: u32,
    tls: Tls,
}

impl Draft {
    /// Parses the file, lays it out, reserves the place where it is to run, and relocates it to there.
    pub fn read(file: &[u8]) -> Result<Self> {
        match FileKind::parse(file) {
            Ok(FileKind::Pe64) => {}
            Ok(FileKind::Pe32) => return Err("it is a 32-bit PE file; this host runs 64-bit code".into()),
            _ => return Err("it is not a PE file, or not all of one".into()),
        }
        let pe = PeFile64::parse(file)?;
        let header = pe.nt_headers().optional_header();
        let machine = pe.nt_headers().file_header().machine.get(LE);
        if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
            return Err(format!("it is for machine {machine:#x}, not for x86_64").into());
        }
        let characteristics = pe.nt_headers().file_header().characteristics.get(LE);
        if characteristics & pe::IMAGE_FILE_DLL == 0 {
            return Err("it is a program, not a DLL".into());
        }
        let size = header.size_of_image();
        if size == 0 || size > LARGEST || size % PAGE != 0 {
            return Err(format!("its headers give it a size of {size} bytes").into());
        }

        let place = Reservation::new(size as usize)?;
        let mut draft = Self {
            memory: vec![0; size as usize],
            regions: Vec::new(),
            imports: Vec::new(),
            exports: HashMap::new(),
            entry: header.address_of_entry_point(),
            tls: Tls::default(),
            place,
        };
        draft.place_sections(&pe, file)?;
        draft.read_imports(&pe)?;
        draft.read_exports(&pe)?;
        if draft.entry != 0 {
            draft.check_code(draft.entry, "the entry point")?;
        }
        let moved = (draft.place.base() as u64).wrapping_sub(header.image_base());
        draft.relocate(&pe, file, moved, characteristics & pe::IMAGE_FILE_RELOCS_STRIPPED != 0)?;
        draft.read_tls(&pe)?;
        Ok(draft)
    }

    fn place_sections(&mut self, pe: &PeFile64<'_>, file: &[u8]) -> Result<()> {
        let headers = pe.nt_headers().optional_header().size_of_headers();
        let bytes = file.get(..headers as usize).ok_or("its headers lie beyond the end of the file")?;
        self.bytes_mut(0, bytes.len())?.copy_from_slice(bytes);
        let mut end = round_up(headers)?;
        self.regions.push(self.region(0, end, libc::PROT_READ));

        for section in pe.section_table().iter() {
            let name = section.raw_name().escape_ascii();
            let wrong = |what: &str| format!("section {name} {what}");
            let (start, stored) = (section.virtual_address.get(LE), section.size_of_raw_data.get(LE));
            let size = match section.virtual_size.get(LE) {
                0 => stored,
                size => size,
            };
            if start % PAGE != 0 || start < end {
                return Err(wrong("starts inside of a page, or of another section").into());
            }
            end = start.checked_add(size).map(round_up).ok_or_else(|| wrong("lies outside of the image"))??;
            if end as usize > self.memory.len() {
                return Err(wrong("lies outside of the image").into());
            }
            if stored != 0 {
                let offset = section.pointer_to_raw_data.get(LE) as usize;
                let bytes = offset.checked_add(stored as usize).and_then(|end| file.get(offset..end));
                let bytes = bytes.ok_or_else(|| wrong("lies beyond the end of the file"))?;
                let bytes = bytes.get(..stored.min(size) as usize).unwrap_or_default();
                self.bytes_mut(start, bytes.len())?.copy_from_slice(bytes);
            }
            let flags = section.characteristics.get(LE);
            let protection = match (flags & pe::IMAGE_SCN_MEM_WRITE != 0, flags & pe::IMAGE_SCN_MEM_EXECUTE != 0) {
                (true, true) => return Err(wrong("wants to be writable and executable").into()),
                (true, false) => libc::PROT_READ | libc::PROT_WRITE,
                (false, true) => libc::PROT_READ | libc::PROT_EXEC,
                (false, false) => libc::PROT_READ,
            };
            self.regions.push(self.region(start, end, protection));
        }
        Ok(())
    }

    fn relocate(&mut self, pe: &PeFile64<'_>, file: &[u8], moved: u64, stripped: bool) -> Result<()> {
        if stripped && moved != 0 {
            return Err("it has no relocations, so it can run at no other address than its own".into());
        }
        let Some(mut blocks) = pe.data_directories().relocation_blocks(file, &pe.section_table())? else {
            return Ok(());
        };
        while let Some(block) = blocks.next()? {
            for relocation in block {
                match relocation.typ {
                    pe::IMAGE_REL_BASED_ABSOLUTE => {}
                    pe::IMAGE_REL_BASED_DIR64 => {
                        let address = self.word(relocation.virtual_address)?.wrapping_add(moved);
                        self.set_word(relocation.virtual_address, address)?;
                    }
                    other => return Err(format!("it has a relocation of type {other}").into()),
                }
            }
        }
        Ok(())
    }

    fn read_imports(&mut self, pe: &PeFile64<'_>) -> Result<()> {
        let Some(table) = pe.import_table()? else { return Ok(()) };
        let mut descriptors = table.descriptors()?;
        while let Some(descriptor) = descriptors.next()? {
            let dll = table.name(descriptor.name.get(LE))?.escape_ascii().to_string();
            let mut place = descriptor.first_thunk.get(LE);
            let names = match descriptor.original_first_thunk.get(LE) {
                0 => place,
                names => names,
            };
            let mut thunks = table.thunks(names)?;
            while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
                if thunk.is_ordinal() {
                    return Err(format!("it imports number {} of {dll}, without a name", thunk.ordinal()).into());
                }
                let (_hint, name) = table.hint_name(thunk.address())?;
                self.word(place).map_err(|_| "its import address table lies outside of the image")?;
                self.imports.push(ImportEntry { dll: dll.clone(), name: name.escape_ascii().to_string(), place });
                place = place.checked_add(8).ok_or("its import address table lies outside of the image")?;
            }
        }
        Ok(())
    }

    fn read_exports(&mut self, pe: &PeFile64<'_>) -> Result<()> {
        let Some(table) = pe.export_table()? else { return Ok(()) };
        for export in table.exports()? {
            if let (Some(name), ExportTarget::Address(address)) = (export.name, export.target) {
                self.exports.insert(name.escape_ascii().to_string(), address);
            }
        }
        Ok(())
    }

    /// The TLS directory holds addresses, so it is read from the relocated image.
    fn read_tls(&mut self, pe: &PeFile64<'_>) -> Result<()> {
        let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_TLS) else { return Ok(()) };
        let (start, size) = directory.address_range();
        if start == 0 || size == 0 {
            return Ok(());
        }
        let field = |index: u32| self.word(start.checked_add(8 * index).ok_or(OUTSIDE)?);
        let (first, last) = (self.offset_of(field(0)?)?, self.offset_of(field(1)?)?);
        let length = last.checked_sub(first).ok_or(OUTSIDE)?;
        let mut template = self.bytes(first, length as usize)?.to_vec();
        let zeros = field(4)? as u32;
        if zeros > LARGEST {
            return Err(format!("its thread-local variables take {zeros} bytes").into());
        }
        template.resize(template.len() + zeros as usize, 0);

        let mut callbacks = Vec::new();
        if field(3)? != 0 {
            let mut next = self.offset_of(field(3)?)?;
            loop {
                let address = self.word(next)?;
                if address == 0 {
                    break;
                }
                self.check_code(self.offset_of(address)?, "a TLS callback")?;
                callbacks.push(address as usize);
                next = next.checked_add(8).ok_or(OUTSIDE)?;
            }
        }
        // Its variables are found through an index that the loader chooses: this host knows one DLL, so 0.
        let index = self.offset_of(field(2)?)?;
        self.bytes_mut(index, 4)?.fill(0);
        self.tls = Tls { template, callbacks };
        Ok(())
    }

    /// Puts the address of a function where the DLL's code will look for this import.
    pub fn bind(&mut self, import: usize, address: usize) -> Result<()> {
        let place = self.imports.get(import).ok_or(OUTSIDE)?.place;
        self.set_word(place, address as u64)
    }

    /// Copies the draft to its place and protects it.
    pub fn load(self) -> Result<Image> {
        let Self { memory, place, regions, exports, entry, tls, .. } = self;
        // SAFETY: the reservation is as long as the draft, writable, and nobody else knows of it yet.
        unsafe { place.start.copy_from_nonoverlapping(memory.as_ptr(), memory.len()) };
        // What lies between the sections is only readable.
        let all = Region { addresses: place.base()..place.base() + place.size, protection: libc::PROT_READ };
        for region in std::iter::once(&all).chain(&regions) {
            let Range { start, end } = region.addresses.clone();
            // SAFETY: the region lies in the reservation, whose pages hold nothing but this image.
            if unsafe { libc::mprotect(start as *mut c_void, end - start, region.protection) } != 0 {
                return Err(format!("cannot protect the image: {}", io::Error::last_os_error()).into());
            }
        }
        Ok(Image { place, regions, exports, entry: entry as usize, tls })
    }

    fn region(&self, start: u32, end: u32, protection: i32) -> Region {
        Region { addresses: self.place.base() + start as usize..self.place.base() + end as usize, protection }
    }

    fn check_code(&self, offset: u32, what: &str) -> Result<()> {
        let address = self.place.base() + offset as usize;
        match executable(&self.regions, address) {
            true => Ok(()),
            false => Err(format!("{what} is at {offset:#x}, where no code is").into()),
        }
    }

    /// From an address in the relocated image to an offset into it.
    fn offset_of(&self, address: u64) -> Result<u32> {
        let offset = address.checked_sub(self.place.base() as u64).and_then(|offset| offset.try_into().ok());
        Ok(offset.ok_or(OUTSIDE)?)
    }

    fn bytes(&self, offset: u32, length: usize) -> Result<&[u8]> {
        Ok(self.memory.get(offset as usize..).and_then(|rest| rest.get(..length)).ok_or(OUTSIDE)?)
    }

    fn bytes_mut(&mut self, offset: u32, length: usize) -> Result<&mut [u8]> {
        Ok(self.memory.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..length)).ok_or(OUTSIDE)?)
    }

    fn word(&self, offset: u32) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(offset, 8)?.try_into()?))
    }

    fn set_word(&mut self, offset: u32, word: u64) -> Result<()> {
        self.bytes_mut(offset, 8)?.copy_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

const OUTSIDE: &str = "it refers to an address outside of its image";

fn round_up(size: u32) -> Result<u32> {
    Ok(size.checked_next_multiple_of(PAGE).ok_or(OUTSIDE)?)
}

fn executable(regions: &[Region], address: usize) -> bool {
    regions.iter().any(|region| region.protection & libc::PROT_EXEC != 0 && region.addresses.contains(&address))
}

/// A DLL in its place, ready to run.
pub struct Image {
    place: Reservation,
    regions: Vec<Region>,
    exports: HashMap<String, u32>,
    entry: usize,
    tls: Tls,
}

/// Why the entry point is called: "DllMain entry point", `fdwReason`.
#[derive(Clone, Copy, PartialEq)]
pub enum Reason {
    ProcessDetach = 0,
    ProcessAttach = 1,
}

impl Image {
    /// The address of an exported function.
    pub fn function(&self, name: &str) -> Result<usize> {
        let offset = self.exports.get(name).ok_or_else(|| format!("it exports no function {name}"))?;
        let address = self.place.base() + *offset as usize;
        match executable(&self.regions, address) {
            true => Ok(address),
            false => Err(format!("its export {name} is no function").into()),
        }
    }

    /// What a thread's copy of the thread-local variables starts as.
    pub fn tls_template(&self) -> &[u8] {
        &self.tls.template
    }

    pub fn size(&self) -> usize {
        self.place.size
    }

    /// Runs the TLS callbacks and the entry point.
    ///
    /// # Safety
    /// The imports must be bound to functions of their types, and GS must point to a thread environment block.
    pub unsafe fn notify(&self, reason: Reason) -> Result<()> {
        type TlsCallback = unsafe extern "win64" fn(*mut c_void, u32, *mut c_void);
        type Entry = unsafe extern "win64" fn(*mut c_void, u32, *mut c_void) -> i32;
        for callback in &self.tls.callbacks {
            // SAFETY: `read_tls` has found it in this image's code; the type is PIMAGE_TLS_CALLBACK.
            unsafe {
                let callback = std::mem::transmute::<usize, TlsCallback>(*callback);
                callback(self.place.start.cast(), reason as u32, null_mut());
            }
        }
        if self.entry == 0 {
            return Ok(());
        }
        // SAFETY: `read` has found it in this image's code; the type is DllMain's.
        let result = unsafe {
            let entry = std::mem::transmute::<usize, Entry>(self.place.base() + self.entry);
            entry(self.place.start.cast(), reason as u32, null_mut())
        };
        match (reason, result) {
            (Reason::ProcessAttach, 0) => Err("its entry point says that it cannot be used".into()),
            _ => Ok(()),
        }
    }
}

/// Anonymous memory that goes away with its owner.
struct Reservation {
    start: *mut u8,
    size: usize,
}

impl Reservation {
    fn new(size: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches nobody's memory.
        let start = unsafe { libc::mmap(null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        match start {
            libc::MAP_FAILED => Err(format!("no memory for the image: {}", io::Error::last_os_error()).into()),
            start => Ok(Self { start: start.cast(), size }),
        }
    }

    fn base(&self) -> usize {
        self.start.expose_provenance()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: it is this owner's mapping; what borrowed from it is gone.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
