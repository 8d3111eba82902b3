/* A Modbus server on Debian's libmodbus, for the lines of drivers/modbus.py to read.
 *
 *   libmodbus_server tcp                    listens on 127.0.0.1, prints "ready PORT"
 *   libmodbus_server rtu DEVICE BAUD P S    opens DEVICE, prints "ready"   (P: N, E or O; S: unit)
 *
 * It has addresses 0 to 399 of each table and ends when its standard input does:
 *   coil i = i mod 3 is 0          discrete input i = i mod 2 is 0
 *   holding register i = i         input register i = 1000 + i
 * except for figures that indicators send:
 *   holding 300-301  float 12340.5, high word first      302-303  the same, low word first
 *   input 0-4        gross -70 000 as a magnitude, net 69 980, status 0x0006
 *   holding 380-383  a mailbox: command, scale, value; 384-387 its answer: the command, status,
 *                    value 160 to command 34 and -70 000 to command 32
 */
#include <errno.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { COUNT = 400 };

static void set_u32(uint16_t *place, uint32_t value)
{
    place[0] = (uint16_t)(value >> 16);
    place[1] = (uint16_t)(value & 0xFFFF);
}

static void fill(modbus_mapping_t *banks)
{
    for (int i = 0; i < COUNT; i++) {
        banks->tab_bits[i] = i % 3 == 0;
        banks->tab_input_bits[i] = i % 2 == 0;
        banks->tab_registers[i] = (uint16_t)i;
        banks->tab_input_registers[i] = (uint16_t)(1000 + i);
    }
    /* Not by modbus_set_float_*: library 3.1.6 also swaps the bytes within each register. */
    float shown = 12340.5f;
    uint32_t bits;
    memcpy(&bits, &shown, sizeof bits);
    set_u32(&banks->tab_registers[300], bits);
    set_u32(&banks->tab_registers[302], bits << 16 | bits >> 16);
    set_u32(&banks->tab_input_registers[0], 70000);
    set_u32(&banks->tab_input_registers[2], 69980);
    banks->tab_input_registers[4] = 0x0006; /* bit 1 gross negative, bit 2 stable */
}

/* Put the answer to the mailbox's command where it is read. */
static void answer(modbus_mapping_t *banks)
{
    uint16_t *box = &banks->tab_registers[380];
    if (box[0] != 34 && box[0] != 32)
        return;
    box[4] = box[0];
    box[5] = 0;
    set_u32(&box[6], box[0] == 34 ? 160 : (uint32_t)-70000);
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
    return 1;
}

/* Return whether there is something to read at fd; end the program when standard input ends. */
static int is_asked(int fd)
{
    struct pollfd both[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    if (poll(both, 2, -1) < 0 || both[0].revents)
        exit(0);
    return both[1].revents != 0;
}

/* Answer until the connection or standard input ends. */
static void serve(modbus_t *link, modbus_mapping_t *banks)
{
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH > MODBUS_TCP_MAX_ADU_LENGTH ? MODBUS_RTU_MAX_ADU_LENGTH
                                                                      : MODBUS_TCP_MAX_ADU_LENGTH];
    for (;;) {
        if (!is_asked(modbus_get_socket(link)))
            continue;
        int length = modbus_receive(link, query);
        if (length > 0) {
            modbus_reply(link, query, length, banks);
            answer(banks);
        } else if (length < 0 && (errno == ECONNRESET || errno == EBADF || errno == EIO))
            return;
        else if (length < 0)
            modbus_flush(link); /* else the rest of a refused frame would head the next one */
    }
}

int main(int argc, char **argv)
{
    modbus_mapping_t *banks = modbus_mapping_new(COUNT, COUNT, COUNT, COUNT);
    if (banks == NULL)
        return fail("banks");
    fill(banks);
    if (argc == 2 && strcmp(argv[1], "tcp") == 0) {
        modbus_t *link = modbus_new_tcp("127.0.0.1", 0);
        int listener = link == NULL ? -1 : modbus_tcp_listen(link, 4);
        struct sockaddr_in at;
        socklen_t size = sizeof at;
        if (listener < 0 || getsockname(listener, (struct sockaddr *)&at, &size) < 0)
            return fail("tcp");
        printf("ready %d\n", ntohs(at.sin_port));
        fflush(stdout);
        for (;;) {
            if (!is_asked(listener) || modbus_tcp_accept(link, &listener) < 0)
                continue;
            serve(link, banks);
            modbus_close(link);
        }
    }
    if (argc == 6 && strcmp(argv[1], "rtu") == 0) {
        modbus_t *link = modbus_new_rtu(argv[2], atoi(argv[3]), argv[4][0], 8, 1);
        if (link == NULL || modbus_set_slave(link, atoi(argv[5])) < 0 || modbus_connect(link) < 0)
            return fail("rtu");
        modbus_set_byte_timeout(link, 0, 50000); /* half a second would outlast our time-out */
        printf("ready\n");
        fflush(stdout);
        serve(link, banks);
        return 0;
    }
    fprintf(stderr, "usage: libmodbus_server tcp | rtu DEVICE BAUD PARITY UNIT\n");
    return 2;
}
