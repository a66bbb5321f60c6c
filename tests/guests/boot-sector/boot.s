# Prints one line on the first serial port and halts for ever.

        .code16
        .globl  _start
_start: xorw    %ax, %ax
        movw    %ax, %ds
        movw    $text, %si
        cld
next:   lodsb
        testb   %al, %al
        jz      halt
        movb    %al, %ah
        movw    $0x3fd, %dx             # line status of COM1
wait:   inb     %dx, %al
        testb   $0x20, %al              # the transmitter is empty
        jz      wait
        movb    %ah, %al
        movw    $0x3f8, %dx             # data of COM1
        outb    %al, %dx
        jmp     next
halt:   cli
        hlt
        jmp     halt

text:   .asciz  "boot-sector guest ready\r\n"

        .org    510
        .word   0xaa55
