/*
 * For unit tests: a stream of the processor at F32 with two threads, for a group of tests.
 */
#ifndef NB_TESTS_STREAM_H
#define NB_TESTS_STREAM_H

#include "kernels/base/cpu.h"
#include "kernels/base/stream.h"

static nb_device *device;
static nb_stream *stream;

/* Setup and teardown of the group. */
static int open_all(void **state)
{
    (void)state;
    return nb_device_open_cpu(nb_cpu_caps(), &device) ||
           nb_stream_create(device, NB_COMPUTE_F32, 2, NULL, &stream);
}

static int close_all(void **state)
{
    (void)state;
    nb_stream_destroy(stream);
    nb_device_close(device);
    return 0;
}

#endif
