/* The peer: librabbitmq moving bare bytes, a process to each side.
 *
 *   librabbitmq consume|publish URL QUEUE COUNT BODY_BYTES
 *
 * The same shape as stock_pika.py: the consumer declares a durable queue, prints `ready` once it
 * consumes, holds 256 deliveries at most, acknowledges every 32 and ends after COUNT bodies. The
 * publisher prints `ready` once its channel takes confirms and begins when it reads a line; it
 * sends transient bodies of random bytes from memory, no more than 16 MiB of them unconfirmed.
 * No digest, no seal, no file.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    CHANNEL = 1,
    FRAME_MAX = 131072, /* what RabbitMQ offers, and pika takes */
    PREFETCH = 256,
    ACKNOWLEDGE_EVERY = 32,
    UNCONFIRMED_BYTES = 16 << 20,
};

static void fail(const char *what)
{
    fprintf(stderr, "librabbitmq: %s\n", what);
    exit(1);
}

static void say_ready(void)
{
    puts("ready");
    fflush(stdout);
}

static void expect(int status, const char *what)
{
    if (status != AMQP_STATUS_OK) {
        fprintf(stderr, "librabbitmq: %s: %s\n", what, amqp_error_string2(status));
        exit(1);
    }
}

static void expect_reply(amqp_rpc_reply_t reply, const char *what)
{
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail(what);
}

static amqp_connection_state_t connected(char *url)
{
    struct amqp_connection_info at;
    expect(amqp_parse_url(url, &at), "the URL");
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket)
        fail("no socket");
    expect(amqp_socket_open(socket, at.host, at.port), "connect");
    expect_reply(amqp_login(connection, at.vhost, 1, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN,
                            at.user, at.password),
                 "login");
    amqp_channel_open(connection, CHANNEL);
    expect_reply(amqp_get_rpc_reply(connection), "channel");
    return connection;
}

/* Read one confirm; returns the highest tag that is confirmed now. */
static uint64_t confirmed(amqp_connection_state_t connection, uint64_t before)
{
    amqp_frame_t frame;
    expect(amqp_simple_wait_frame(connection, &frame), "waiting for a confirm");
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
        fail("the broker did not take a body");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    uint64_t tag = ack->delivery_tag;
    amqp_maybe_release_buffers(connection);
    return tag > before ? tag : before;
}

static void publish(amqp_connection_state_t connection, const char *queue, uint64_t count,
                    size_t size)
{
    char *bytes = malloc(size);
    if (!bytes)
        fail("no memory");
    for (size_t filled = 0; filled < size;) {
        ssize_t got = getrandom(bytes + filled, size - filled, 0);
        if (got < 0)
            fail("no random bytes");
        filled += (size_t)got;
    }
    amqp_bytes_t body = {.len = size, .bytes = bytes};
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                          .delivery_mode = 1};
    uint64_t room = UNCONFIRMED_BYTES / size > 1 ? UNCONFIRMED_BYTES / size : 1;
    amqp_confirm_select(connection, CHANNEL);
    expect_reply(amqp_get_rpc_reply(connection), "confirms");
    say_ready();
    getchar();
    uint64_t taken = 0;
    for (uint64_t sent = 0; sent < count;) {
        while (sent - taken >= room)
            taken = confirmed(connection, taken);
        expect(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes,
                                  amqp_cstring_bytes(queue), 0, 0, &properties, body),
               "publish");
        sent++;
    }
    while (taken < count)
        taken = confirmed(connection, taken);
    free(bytes);
}

static void consume(amqp_connection_state_t connection, const char *queue, uint64_t count,
                    size_t size)
{
    amqp_bytes_t name = amqp_cstring_bytes(queue);
    amqp_basic_qos(connection, CHANNEL, 0, PREFETCH, 0);
    expect_reply(amqp_get_rpc_reply(connection), "prefetch");
    amqp_queue_declare(connection, CHANNEL, name, 0, 1, 0, 0, amqp_empty_table);
    expect_reply(amqp_get_rpc_reply(connection), "queue");
    amqp_basic_consume(connection, CHANNEL, name, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    expect_reply(amqp_get_rpc_reply(connection), "consume");
    say_ready();
    for (uint64_t left = count; left;) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        expect_reply(amqp_consume_message(connection, &envelope, NULL, 0), "a delivery");
        if (envelope.message.body.len != size)
            fail("a body of the wrong size");
        uint64_t tag = envelope.delivery_tag;
        amqp_destroy_envelope(&envelope);
        left--;
        if (!left || tag % ACKNOWLEDGE_EVERY == 0)
            expect(amqp_basic_ack(connection, CHANNEL, tag, 1), "acknowledge");
    }
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("usage: librabbitmq consume|publish URL QUEUE COUNT BODY_BYTES");
    amqp_connection_state_t connection = connected(argv[2]);
    uint64_t count = strtoull(argv[4], NULL, 10);
    size_t size = strtoull(argv[5], NULL, 10);
    if (!strcmp(argv[1], "publish"))
        publish(connection, argv[3], count, size);
    else
        consume(connection, argv[3], count, size);
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
    return 0;
}
