# Prints 1024 numbered lines of 64 bytes on the first serial port, then a last one, and powers off
# by ACPI in the next instruction: whoever reads must not lose a byte. The port of the power
# management is where SeaBIOS puts it on q35 (PM base 0x600, PM1a_CNT at 4).

        .code16
        .globl  _start
        .set    LINES, 1024

_start: xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        movw    $LINES, %cx
again:  movw    $line, %si
        call    print
        movw    $digits + 3, %bx        # count in decimal, in place
carry:  incb    (%bx)
        cmpb    $'9', (%bx)
        jbe     counted
        movb    $'0', (%bx)
        decw    %bx
        jmp     carry
counted:
        loop    again
        movw    $last, %si
        call    print
        movw    $0x604, %dx             # PM1a_CNT
        movw    $0x2000, %ax            # SLP_EN, SLP_TYP of S5
        outw    %ax, %dx
halt:   cli
        hlt
        jmp     halt

print:  lodsb
        testb   %al, %al
        jz      done
        movb    %al, %ah
        movw    $0x3fd, %dx             # line status of COM1
wait:   inb     %dx, %al
        testb   $0x20, %al              # the transmitter is empty
        jz      wait
        movb    %ah, %al
        movw    $0x3f8, %dx             # data of COM1
        outb    %al, %dx
        jmp     print
done:   ret

line:   .ascii  "power-off guest line "
digits: .ascii  "0000"
        .asciz  " ....................................\r\n"
last:   .asciz  "power-off guest ends\r\n"

        .org    510
        .word   0xaa55
