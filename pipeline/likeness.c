#include "pipeline/likeness.h"

#include <math.h>
#include <stdlib.h>

enum { WINDOW = 11 };

double nb_psnr(const uint8_t *a, const uint8_t *b, int64_t width, int64_t height)
{
    double sum = 0.0;
    int64_t n = 3 * width * height;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sum > 0.0 ? 10.0 * log10(255.0 * 255.0 * (double)n / sum) : NB_PSNR_EQUAL;
}

double nb_cosine(const float *a, const float *b, int64_t n)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0.0 && bb > 0.0 ? ab / sqrt(aa * bb) : 0.0;
}

/* Five planes [height, width] that the windows average: x, y, x^2, y^2, xy. */
enum { X, Y, XX, YY, XY, N_PLANES };

static void fill_planes(double *planes, const uint8_t *a, const uint8_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double x = 0.299 * a[3 * i] + 0.587 * a[3 * i + 1] + 0.114 * a[3 * i + 2];
        double y = 0.299 * b[3 * i] + 0.587 * b[3 * i + 1] + 0.114 * b[3 * i + 2];
        planes[X * n + i] = x;
        planes[Y * n + i] = y;
        planes[XX * n + i] = x * x;
        planes[YY * n + i] = y * y;
        planes[XY * n + i] = x * y;
    }
}

static void gaussian(double weights[WINDOW])
{
    double sum = 0.0;
    for (int i = 0; i < WINDOW; i++) {
        double d = i - WINDOW / 2;
        weights[i] = exp(-d * d / (2.0 * 1.5 * 1.5));
        sum += weights[i];
    }
    for (int i = 0; i < WINDOW; i++) weights[i] /= sum;
}

/* A window's weighted mean along rows (step 1) or columns (step width). */
static double mean_along(const double *at, int64_t step, const double weights[WINDOW])
{
    double sum = 0.0;
    for (int i = 0; i < WINDOW; i++) sum += weights[i] * at[i * step];
    return sum;
}

/* Rows first, into `across` [height, width - 10]; each window's mean is then one column. */
static void average_rows(double *across, const double *planes, int64_t width, int64_t height,
                         const double weights[WINDOW])
{
    int64_t columns = width - WINDOW + 1;
    for (int64_t row = 0; row < N_PLANES * height; row++)
        for (int64_t c = 0; c < columns; c++)
            across[row * columns + c] = mean_along(planes + row * width + c, 1, weights);
}

static double likeness_of_window(const double mean[N_PLANES])
{
    static const double c1 = (0.01 * 255) * (0.01 * 255), c2 = (0.03 * 255) * (0.03 * 255);
    double mx = mean[X], my = mean[Y];
    double vx = mean[XX] - mx * mx, vy = mean[YY] - my * my, cov = mean[XY] - mx * my;
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
}

static double mean_likeness(const double *across, int64_t columns, int64_t height,
                            const double weights[WINDOW])
{
    int64_t rows = height - WINDOW + 1;
    double sum = 0.0;
    for (int64_t i = 0; i < rows * columns; i++) {
        double mean[N_PLANES];
        for (int p = 0; p < N_PLANES; p++)
            mean[p] = mean_along(across + p * height * columns + i, columns, weights);
        sum += likeness_of_window(mean);
    }
    return sum / (double)(rows * columns);
}

nb_status nb_ssim(const uint8_t *a, const uint8_t *b, int64_t width, int64_t height,
                  double *out)
{
    if (width < WINDOW || height < WINDOW)
        return nb_fail(NB_E_USAGE,
                       "SSIM: wanted pictures of %d pixels a side or more, found %lldx%lld",
                       WINDOW, (long long)width, (long long)height);
    double weights[WINDOW];
    size_t n = (size_t)(N_PLANES * width * height);
    double *planes = malloc(n * sizeof *planes), *across = malloc(n * sizeof *across);
    nb_status status = planes && across ? NB_OK : nb_fail(NB_E_SYSTEM, "out of memory");
    if (!status) {
        gaussian(weights);
        fill_planes(planes, a, b, width * height);
        average_rows(across, planes, width, height, weights);
        *out = mean_likeness(across, width - WINDOW + 1, height, weights);
    }
    free(planes);
    free(across);
    return status;
}
