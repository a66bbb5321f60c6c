//! The smallest guests: one sector of 16-bit code that SeaBIOS loads, written statement by
//! statement, each for one test.

/// The first serial port, q35's power management and pvpanic (QEMU, `hw/acpi/ich9.c`,
/// `docs/specs/pvpanic.rst`).
const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const PM_STATUS: u16 = 0x600;
const PM_ENABLE: u16 = 0x602;
const PM_CONTROL: u16 = 0x604;
const PVPANIC: u16 = 0x505;
const RESET_CONTROL: u16 = 0xcf9;
/// Where PCI configuration space is looked into (PCI Local Bus Specification, 3.2.2.3.2).
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;

/// The watchdog at 06.0: its configuration and its lock (Intel 6300ESB datasheet, 16.5). Timers of
/// the full 20 bits at 1 MHz are one second each, and the second one's end is the bark.
const WATCHDOG_CONFIG: u32 = 0x8000_3060;
const WATCHDOG_LOCK: u32 = 0x8000_3068;
const AT_1_MHZ_WITHOUT_INTERRUPT: u16 = 0b111;
const ENABLE: u8 = 0b10;

/// Set in the status of a power button that was pressed, and in the mask that lets it be.
const POWER_BUTTON: u16 = 1 << 8;
/// Written to [`PM_CONTROL`]: go to sleep state 5, which is off.
const SLEEP_5: u16 = 0x2000;

/// Sectors of a disk that SeaBIOS finds a geometry for: it must fill a cylinder.
pub const SECTORS: usize = 2048;

/// A boot sector in the making.
pub struct BootSector {
    code: Vec<u8>,
}

/// Where the subroutines begin.
const PUT: usize = 2;
const GET: usize = PUT + 15;
const MAIN: usize = GET + 12;

impl BootSector {
    pub fn new() -> Self {
        let mut sector = Self { code: Vec::new() };
        sector.bytes(&[0xeb, (MAIN - 2) as u8]); // jmp main
        // put: sends AH once the port is free
        sector
            .dx(LINE_STATUS)
            .bytes(&[0xec, 0xa8, 0x20, 0x74, 0xfb]); // in al,dx; test al,20h; jz -5
        sector.bytes(&[0x88, 0xe0]).dx(COM1).bytes(&[0xee, 0xc3]); // mov al,ah; out dx,al; ret
        assert_eq!(sector.code.len(), GET);
        // get: waits for a byte, into AH
        sector
            .dx(LINE_STATUS)
            .bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb]); // in al,dx; test al,1; jz -5
        sector.bytes(&[0xb2, COM1 as u8, 0xec, 0xc3]); // mov dl,f8h; in al,dx; ret
        assert_eq!(sector.code.len(), MAIN);
        sector.bytes(&[0xfa]); // cli
        sector
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.code.extend(bytes);
        self
    }

    fn dx(&mut self, value: u16) -> &mut Self {
        let [low, high] = value.to_le_bytes();
        self.bytes(&[0xba, low, high])
    }

    fn ax(&mut self, value: u16) -> &mut Self {
        let [low, high] = value.to_le_bytes();
        self.bytes(&[0xb8, low, high])
    }

    fn call(&mut self, subroutine: usize) -> &mut Self {
        let after = self.code.len() + 3;
        let [low, high] = (subroutine as u16).wrapping_sub(after as u16).to_le_bytes();
        self.bytes(&[0xe8, low, high])
    }

    fn jump_back_to(&mut self, opcode: u8, place: usize) -> &mut Self {
        let distance = place as isize - (self.code.len() as isize + 2);
        self.bytes(&[opcode, i8::try_from(distance).unwrap() as u8])
    }

    /// Prints `text`.
    pub fn print(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            self.bytes(&[0xb4, byte]).call(PUT); // mov ah,byte
        }
        self
    }

    /// Prints 64 KiB: the bytes 0 to 255, over and over.
    pub fn print_64_kib(mut self) -> Self {
        self.bytes(&[0x31, 0xc9]); // xor cx,cx
        let next = self.code.len();
        self.bytes(&[0x88, 0xcc]).call(PUT).bytes(&[0x41]); // mov ah,cl; inc cx
        self.jump_back_to(0x75, next); // jnz next
        self
    }

    /// Waits for a byte of input and prints it.
    pub fn echo(mut self) -> Self {
        self.call(GET).bytes(&[0x88, 0xc4]).call(PUT); // mov ah,al
        self
    }

    /// Lets the power button be noticed.
    pub fn arm_power_button(mut self) -> Self {
        self.dx(PM_ENABLE).ax(POWER_BUTTON).bytes(&[0xef]); // out dx,ax
        self
    }

    /// Waits until the power button is pressed, which must be armed.
    pub fn await_power_button(mut self) -> Self {
        let again = self.code.len();
        self.dx(PM_STATUS).bytes(&[0xed, 0xf6, 0xc4, 0x01]); // in ax,dx; test ah,1
        self.jump_back_to(0x74, again); // jz again
        self
    }

    /// Starts the watchdog, which barks two seconds later.
    pub fn start_watchdog(mut self) -> Self {
        self.pci_address(WATCHDOG_CONFIG).dx(PCI_DATA);
        self.ax(AT_1_MHZ_WITHOUT_INTERRUPT).bytes(&[0xef]); // out dx,ax
        self.pci_address(WATCHDOG_LOCK).dx(PCI_DATA);
        self.bytes(&[0xb0, ENABLE, 0xee]); // mov al,ENABLE; out dx,al
        self
    }

    fn pci_address(&mut self, address: u32) -> &mut Self {
        self.bytes(&[0x66, 0xb8]).bytes(&address.to_le_bytes()); // mov eax,address
        self.dx(PCI_ADDRESS).bytes(&[0x66, 0xef]) // out dx,eax
    }

    /// Writes this boot sector over the disk's second sector; prints `w`, or `e` on an error.
    pub fn write_second_sector(mut self) -> Self {
        self.ax(0x0301).bytes(&[0xb9, 2, 0, 0xb6, 0]); // write one; cylinder 0, sector 2; head 0
        self.bytes(&[0x31, 0xdb, 0x8e, 0xc3, 0xbb, 0x00, 0x7c]); // from 0000:7c00, where we are
        self.bytes(&[0xcd, 0x13]); // int 13h
        self.bytes(&[0xb4, b'w', 0x73, 2, 0xb4, b'e']).call(PUT); // mov ah,'w'; jnc +2; mov ah,'e'
        self.bytes(&[0xfa]); // cli
        self
    }

    /// Reboots the first time, and goes on after that: the real time clock's memory remembers.
    pub fn reboot_once(mut self) -> Self {
        // out 70h,7fh; in al,71h; cmp al,5ah; je on; mov al,5ah; out 71h,al; reset
        self.bytes(&[0xb0, 0x7f, 0xe6, 0x70, 0xe4, 0x71, 0x3c, 0x5a, 0x74, 10]);
        self.bytes(&[0xb0, 0x5a, 0xe6, 0x71])
            .dx(RESET_CONTROL)
            .bytes(&[0xb0, 6, 0xee]);
        self
    }

    /// Reports a panic by pvpanic.
    pub fn panic(mut self) -> Self {
        self.dx(PVPANIC).bytes(&[0xb0, 1, 0xee]); // mov al,1; out dx,al
        self.halt()
    }

    /// Powers the machine off.
    pub fn power_off(mut self) -> Self {
        self.dx(PM_CONTROL).ax(SLEEP_5).bytes(&[0xef]); // out dx,ax
        self.halt()
    }

    /// Does nothing for ever.
    pub fn halt(mut self) -> Self {
        self.bytes(&[0xf4, 0xeb, 0xfd]); // hlt; jmp -3
        self
    }

    /// A disk of `sectors` sectors, of which this is the first.
    pub fn disk(self, sectors: usize) -> Vec<u8> {
        let mut disk = self.code;
        assert!(
            disk.len() <= 446,
            "the code would reach into the partition table"
        );
        disk.resize(sectors * 512, 0);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }
}
