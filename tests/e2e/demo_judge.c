/* demo_judge: is what the demo model drew what the prompts asked for? Plain code judges.
 *
 *     demo_judge [--min-one X] [--min-two Y] [--swap] [--verbose] TRUTH.tsv DIR
 *     demo_judge --draw TRUTH.tsv DIR
 *
 * TRUTH.tsv has a line a picture, tab-separated: number, prompt, colour of the ground, then
 * colour, shape, size and place of each shape; '-' is what the prompt leaves free. DIR/%03d.png
 * are the pictures. A picture is right when everything named is right:
 *
 *   ground   the median colour of a band along the edge is nearest to the named colour, and
 *            the band is plain;
 *   shapes   what differs from the ground falls into as many connected parts as shapes named;
 *   colour   the median colour inside a part is nearest to the named one;
 *   shape    of the six true masks, each fitted over position, size and rotation, the named
 *            one overlaps the part best, with an IoU of at least MIN_IOU;
 *   size     the fitted mask's radius lies between the bounds of the named size;
 *   place    the part's centroid is nearest to the named of nine places.
 *
 * Exit status 0: at least the fraction X of the one-shape prompts and Y of the two-shape
 * prompts are right; 1: not; 2: something could not be read. --swap judges each prompt on the
 * next prompt's picture and --draw writes true pictures: a judge that passes the first or fails
 * the second is wrong. The geometry is that of models/demo/flux/recipe/train.py.
 */
#include <math.h>
#include <png.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIDE = 128,
    PIXELS = SIDE * SIDE,
    N_COLOURS = 10,
    N_SHAPES = 6,
    N_SIZES = 3,
    N_PLACES = 9,
    MAX_SHAPES = 3,
    MAX_FIELDS = 3 + 4 * MAX_SHAPES,
    EDGE = 3,      /* width of the band that shows the ground */
    MIN_PART = 40, /* pixels; a smaller part is a speck */
    MAX_PARTS = 8
};
static const double MIN_IOU = 0.75;
static const double MIN_CONTRAST = 36; /* of 255, from the ground, to be a shape's pixel */
static const double MIN_PLAIN = 0.9;   /* of the band within MIN_CONTRAST of its median */
static const double PI = 3.14159265358979323846;

struct named_colour {
    const char *name;
    double rgb[3];
};
static const struct named_colour colours[N_COLOURS] = {
    {"red", {215, 35, 45}},    {"orange", {245, 140, 30}}, {"yellow", {250, 220, 60}},
    {"green", {45, 160, 70}},  {"blue", {40, 90, 220}},    {"purple", {130, 50, 170}},
    {"pink", {250, 160, 200}}, {"white", {245, 245, 245}}, {"gray", {128, 128, 128}},
    {"black", {25, 25, 25}},
};
static const char *const shapes[N_SHAPES] = {"circle", "square", "triangle",
                                             "star",   "ring",   "cross"};
/* Area of each shape of radius 1. */
static const double unit_area[N_SHAPES] = {3.1416, 2.89, 1.5719, 1.4547, 2.0848, 2.2044};
static const char *const sizes[N_SIZES] = {"small", "medium", "large"};
static const double drawn_radius[N_SIZES] = {12.5, 18.75, 26.25};
static const double size_bounds[N_SIZES + 1] = {8, 15.5, 22.5, 34};

struct named_place {
    const char *name;
    double x, y;
};
static const struct named_place places[N_PLACES] = {
    {"left", 34, 64},      {"right", 94, 64},       {"top", 64, 34},
    {"bottom", 64, 94},    {"centre", 64, 64},      {"top left", 34, 34},
    {"top right", 94, 34}, {"bottom left", 34, 94}, {"bottom right", 94, 94},
};

/* Indices into the tables above; -1 is free. */
struct wanted_shape {
    int colour, shape, size, place;
};
struct truth {
    int number, ground, n_shapes;
    struct wanted_shape shape[MAX_SHAPES];
};

struct part {
    int n, x0, y0, x1, y1; /* pixels; inclusive box */
    double cx, cy;         /* centroid */
    int colour;
    double radius[N_SHAPES], iou[N_SHAPES];
};

struct pose {
    double x, y, radius, angle;
};

static unsigned char image[PIXELS][3];
static int label[PIXELS];
static double alpha[PIXELS]; /* of the part in hand: how much of a pixel the shape covers */

/* ---- geometry ---- */

/* Signed distance from the outline of a shape of radius r at the origin, negative inside. */
static double distance(int shape, double x, double y, double r)
{
    const double ax = fabs(x), ay = fabs(y), w = 0.33 * r;
    switch (shape) {
    case 0:
        return hypot(x, y) - r;
    case 1:
        return fmax(ax, ay) - 0.85 * r;
    case 2:
        return fmax(y - 0.55 * r, ax * sqrt(0.75) - 0.5 * y - 0.55 * r);
    case 3: {
        const double turn = 2 * PI / 5, rho = hypot(x, y);
        double t = fmod(atan2(x, -y) + 2 * PI, turn); /* angle from the nearest tip */
        t = fmin(t, turn - t);
        const double nx = 1.1 - 0.45 * cos(PI / 5), ny = 0.45 * sin(PI / 5);
        return (rho * sin(t) * nx + (rho * cos(t) - 1.1 * r) * ny) / hypot(nx, ny);
    }
    case 4:
        return fabs(hypot(x, y) - 0.79 * r) - 0.21 * r;
    default:
        return fmin(fmax(ax - r, ay - w), fmax(ax - w, ay - r));
    }
}

static double coverage(int shape, struct pose p, int px, int py)
{
    const double dx = px + 0.5 - p.x, dy = py + 0.5 - p.y, c = cos(p.angle), s = sin(p.angle);
    return fmin(fmax(0.5 - distance(shape, c * dx + s * dy, c * dy - s * dx, p.radius), 0), 1);
}

/* Soft intersection over union of alpha and the mask, over the part's box and a margin. */
static double overlap(const struct part *part, int shape, struct pose p)
{
    double both = 0, either = 1e-9;
    const int m = 5;
    for (int y = part->y0 - m; y <= part->y1 + m; y++) {
        for (int x = part->x0 - m; x <= part->x1 + m; x++) {
            const bool in = x >= 0 && y >= 0 && x < SIDE && y < SIDE;
            const double a = in ? alpha[y * SIDE + x] : 0, b = coverage(shape, p, x, y);
            both += fmin(a, b);
            either += fmax(a, b);
        }
    }
    return both / either;
}

/* Hill climbing from the centroid, the radius of equal area, and a few angles. */
static void fit(struct part *part, int shape, double area)
{
    struct pose best = {part->cx, part->cy, sqrt(area / unit_area[shape]), 0};
    double score = -1;
    const bool round = shape == 0 || shape == 4;
    for (int k = round ? 0 : -3; k <= (round ? 0 : 3); k++) {
        struct pose p = best;
        p.angle = k * 0.08;
        const double s = overlap(part, shape, p);
        if (s > score) {
            score = s;
            best.angle = p.angle;
        }
    }
    for (double step = 1; step > 0.2; step *= 0.5) {
        for (bool moved = true; moved;) {
            moved = false;
            for (int k = 0; k < 8; k++) {
                struct pose p = best;
                const double d = k % 2 ? step : -step;
                if (k / 2 == 0) p.x += d;
                if (k / 2 == 1) p.y += d;
                if (k / 2 == 2) p.radius += d;
                if (k / 2 == 3) p.angle += 0.04 * d;
                if (p.radius < 2 || fabs(p.angle) > 0.3) continue;
                const double s = overlap(part, shape, p);
                if (s > score + 1e-4) {
                    score = s;
                    best = p;
                    moved = true;
                }
            }
        }
    }
    part->iou[shape] = score;
    part->radius[shape] = best.radius;
}

/* ---- colours ---- */

static int compare_bytes(const void *a, const void *b)
{
    return *(const unsigned char *)a - *(const unsigned char *)b;
}

/* Median of each channel over the pixels in list. */
static void median_colour(double rgb[3], const int *list, int n)
{
    static unsigned char v[PIXELS];
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < n; i++) v[i] = image[list[i]][c];
        qsort(v, (size_t)n, 1, compare_bytes);
        rgb[c] = v[n / 2];
    }
}

static double colour_distance(const double a[3], const double b[3])
{
    return sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) +
                (a[2] - b[2]) * (a[2] - b[2]));
}

static double pixel_distance(int i, const double rgb[3])
{
    const double p[3] = {image[i][0], image[i][1], image[i][2]};
    return colour_distance(p, rgb);
}

static int nearest_colour(const double rgb[3])
{
    int best = 0;
    for (int i = 1; i < N_COLOURS; i++)
        if (colour_distance(rgb, colours[i].rgb) < colour_distance(rgb, colours[best].rgb))
            best = i;
    return best;
}

/* The ground's colour from the band along the edge; false if the band is not plain. */
static bool find_ground(double rgb[3])
{
    static int band[PIXELS];
    int n = 0, plain = 0;
    for (int i = 0; i < PIXELS; i++) {
        const int x = i % SIDE, y = i / SIDE;
        if (x < EDGE || y < EDGE || x >= SIDE - EDGE || y >= SIDE - EDGE) band[n++] = i;
    }
    median_colour(rgb, band, n);
    for (int i = 0; i < n; i++) plain += pixel_distance(band[i], rgb) < MIN_CONTRAST;
    return plain >= MIN_PLAIN * n;
}

/* ---- parts ---- */

static void grow(struct part *part, int seed, int id, int *list)
{
    *part = (struct part){.x0 = SIDE, .y0 = SIDE};
    label[seed] = id;
    list[part->n++] = seed;
    for (int k = 0; k < part->n; k++) {
        const int x = list[k] % SIDE, y = list[k] / SIDE;
        const int next[4] = {x > 0 ? list[k] - 1 : -1, x < SIDE - 1 ? list[k] + 1 : -1,
                             y > 0 ? list[k] - SIDE : -1, y < SIDE - 1 ? list[k] + SIDE : -1};
        for (int j = 0; j < 4; j++) {
            if (next[j] < 0 || label[next[j]] != -1) continue;
            label[next[j]] = id;
            list[part->n++] = next[j];
        }
        if (x < part->x0) part->x0 = x;
        if (x > part->x1) part->x1 = x;
        if (y < part->y0) part->y0 = y;
        if (y > part->y1) part->y1 = y;
    }
}

/* Colour, centroid and fitted masks of a part whose pixels are in list. */
static void measure(struct part *part, int id, const int *list, const double ground[3])
{
    static int inner[PIXELS];
    int n = 0;
    for (int k = 0; k < part->n; k++) {
        const int i = list[k], x = i % SIDE, y = i / SIDE;
        if (x == 0 || y == 0 || x == SIDE - 1 || y == SIDE - 1) continue;
        if (label[i - 1] == id && label[i + 1] == id && label[i - SIDE] == id &&
            label[i + SIDE] == id)
            inner[n++] = i;
    }
    double rgb[3], area = 0;
    median_colour(rgb, n ? inner : list, n ? n : part->n);
    part->colour = nearest_colour(rgb);
    const double far2 = pow(colour_distance(rgb, ground), 2);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            const int i = y * SIDE + x, m = 2;
            alpha[i] = 0;
            if (x < part->x0 - m || x > part->x1 + m || y < part->y0 - m || y > part->y1 + m)
                continue;
            if (label[i] != id && label[i] > 0) continue;
            double along = 0;
            for (int c = 0; c < 3; c++)
                along += (image[i][c] - ground[c]) * (rgb[c] - ground[c]);
            alpha[i] = fmin(fmax(along / far2, 0), 1);
            area += alpha[i];
            part->cx += alpha[i] * (x + 0.5);
            part->cy += alpha[i] * (y + 0.5);
        }
    }
    part->cx /= area;
    part->cy /= area;
    for (int s = 0; s < N_SHAPES; s++) fit(part, s, area);
}

/* Labels: 0 ground, -1 not yet seen, then 1... Returns the number of parts without specks. */
static int find_parts(struct part parts[MAX_PARTS], const double ground[3], int most)
{
    static int list[PIXELS];
    int n = 0, id = 0;
    for (int i = 0; i < PIXELS; i++)
        label[i] = pixel_distance(i, ground) < MIN_CONTRAST ? 0 : -1;
    for (int i = 0; i < PIXELS; i++) {
        if (label[i] != -1) continue;
        struct part p;
        grow(&p, i, ++id, list);
        if (p.n < MIN_PART) continue;
        if (n == most) return n + 1;
        measure(&p, id, list, ground);
        parts[n++] = p;
    }
    return n;
}

/* ---- the verdict ---- */

static int nearest_place(double x, double y)
{
    int best = 0;
    for (int i = 1; i < N_PLACES; i++)
        if (hypot(x - places[i].x, y - places[i].y) <
            hypot(x - places[best].x, y - places[best].y))
            best = i;
    return best;
}

static int best_shape(const struct part *p)
{
    int best = 0;
    for (int s = 1; s < N_SHAPES; s++)
        if (p->iou[s] > p->iou[best]) best = s;
    return best;
}

/* NULL: the part is the shape wanted; else what is wrong with it. */
static const char *compare_part(const struct part *p, const struct wanted_shape *w)
{
    if (w->colour >= 0 && p->colour != w->colour) return "colour";
    if (w->place >= 0 && nearest_place(p->cx, p->cy) != w->place) return "place";
    if (best_shape(p) != w->shape) return "shape";
    if (p->iou[w->shape] < MIN_IOU) return "outline";
    const double r = p->radius[w->shape];
    if (w->size >= 0 && (r < size_bounds[w->size] || r >= size_bounds[w->size + 1]))
        return "size";
    return NULL;
}

/* NULL: the picture in image is right; else what is wrong with it. */
static const char *judge(const struct truth *t, bool verbose)
{
    static const int order[6][MAX_SHAPES] = {{0, 1, 2}, {1, 0, 2}, {0, 2, 1},
                                             {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    struct part parts[MAX_PARTS];
    double ground[3];
    if (!find_ground(ground)) return "edge";
    if (t->ground >= 0 && nearest_colour(ground) != t->ground) return "ground";
    if (find_parts(parts, ground, t->n_shapes) != t->n_shapes) return "number of shapes";
    const char *first = NULL;
    for (int k = 0; k < (t->n_shapes == 1 ? 1 : t->n_shapes == 2 ? 2 : 6); k++) {
        const char *wrong = NULL;
        for (int i = 0; i < t->n_shapes && !wrong; i++)
            wrong = compare_part(&parts[i], &t->shape[order[k][i]]);
        if (!wrong) return NULL;
        if (!first || strcmp(first, "colour") == 0) first = wrong;
    }
    for (int i = 0; verbose && i < t->n_shapes; i++) {
        const struct part *p = &parts[i];
        const int s = best_shape(p);
        printf("    sees %s %s (IoU %.2f, radius %.1f) at %.0f %.0f\n", colours[p->colour].name,
               shapes[s], p->iou[s], p->radius[s], p->cx, p->cy);
    }
    return first;
}

/* ---- files ---- */

/* Index of a name in a table of structs that begin with a name; -1 for "-", -2 if unknown. */
static int look_up(const char *name, const void *table, size_t size, int n)
{
    if (strcmp(name, "-") == 0) return -1;
    for (int i = 0; i < n; i++) {
        const char *entry;
        memcpy(&entry, (const char *)table + (size_t)i * size, sizeof entry);
        if (strcmp(name, entry) == 0) return i;
    }
    return -2;
}

/* 1: a line of truth, 0: a comment or an empty line, -1: not understood. Cuts line up. */
static int parse_truth(struct truth *t, char *line)
{
    char *field[MAX_FIELDS];
    int n = 0;
    line[strcspn(line, "\r\n")] = '\0';
    if (line[0] == '#' || line[0] == '\0') return 0;
    for (char *p = line; p && n < MAX_FIELDS;) {
        field[n++] = p;
        p = strchr(p, '\t');
        if (p) *p++ = '\0';
    }
    *t = (struct truth){.n_shapes = (n - 3) / 4};
    if (n < 7 || (n - 3) % 4 != 0) return -1;
    t->number = (int)strtol(field[0], NULL, 10);
    t->ground = look_up(field[2], colours, sizeof *colours, N_COLOURS);
    bool bad = t->ground == -2 || t->number < 0;
    for (int i = 0; i < t->n_shapes; i++) {
        char **f = field + 3 + 4 * i;
        struct wanted_shape *w = &t->shape[i];
        w->colour = look_up(f[0], colours, sizeof *colours, N_COLOURS);
        w->shape = look_up(f[1], shapes, sizeof *shapes, N_SHAPES);
        w->size = look_up(f[2], sizes, sizeof *sizes, N_SIZES);
        w->place = look_up(f[3], places, sizeof *places, N_PLACES);
        bad = bad || w->colour == -2 || w->shape < 0 || w->size == -2 || w->place == -2;
    }
    return bad ? -1 : 1;
}

static void png_path(char *path, size_t size, const char *folder, int number)
{
    snprintf(path, size, "%s/%03d.png", folder, number);
}

static bool read_picture(const char *path)
{
    png_image png = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&png, path)) {
        fprintf(stderr, "demo_judge: %s: %s\n", path, png.message);
        return false;
    }
    png.format = PNG_FORMAT_RGB;
    if (png.width != SIDE || png.height != SIDE) {
        fprintf(stderr, "demo_judge: %s: %ux%u, wanted %dx%d\n", path, (unsigned)png.width,
                (unsigned)png.height, SIDE, SIDE);
        png_image_free(&png);
        return false;
    }
    return png_image_finish_read(&png, NULL, image, 0, NULL) != 0;
}

/* ---- --draw ---- */

static double jitter(unsigned *state) /* [-1, 1) */
{
    *state = *state * 1664525u + 1013904223u;
    return (double)(*state >> 8) / 8388608.0 - 1;
}

/* What is free gets a value of no meaning that meets nothing named. */
static void draw(const struct truth *t)
{
    unsigned state = (unsigned)t->number * 2654435761u + 12345u;
    const int ground = t->ground >= 0 ? t->ground : (t->shape[0].colour + 5) % N_COLOURS;
    for (int i = 0; i < PIXELS; i++)
        for (int c = 0; c < 3; c++) image[i][c] = (unsigned char)colours[ground].rgb[c];
    for (int k = 0; k < t->n_shapes; k++) {
        const struct wanted_shape *w = &t->shape[k];
        const int place = w->place >= 0 ? w->place : t->n_shapes == 1 ? 4 : k;
        const int colour = w->colour >= 0 ? w->colour : (ground + 3) % N_COLOURS;
        const struct pose p = {
            places[place].x + 3 * jitter(&state), places[place].y + 3 * jitter(&state),
            drawn_radius[w->size >= 0 ? w->size : 1] + jitter(&state), 0.2 * jitter(&state)};
        for (int i = 0; i < PIXELS; i++) {
            const double a = coverage(w->shape, p, i % SIDE, i / SIDE);
            for (int c = 0; c < 3; c++)
                image[i][c] =
                    (unsigned char)(image[i][c] * (1 - a) + colours[colour].rgb[c] * a + 0.5);
        }
    }
}

static bool write_picture(const char *path)
{
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_RGB};
    if (png_image_write_to_file(&png, path, 0, image, 0, NULL)) return true;
    fprintf(stderr, "demo_judge: %s: %s\n", path, png.message);
    return false;
}

/* ---- main ---- */

struct options {
    double min[MAX_SHAPES];
    bool swap, draw, verbose;
    const char *truth, *folder;
};

static bool parse_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--swap") == 0)
            o->swap = true;
        else if (strcmp(argv[i], "--draw") == 0)
            o->draw = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            o->verbose = true;
        else if (strcmp(argv[i], "--min-one") == 0 && i + 1 < argc)
            o->min[0] = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--min-two") == 0 && i + 1 < argc)
            o->min[1] = strtod(argv[++i], NULL);
        else if (argv[i][0] != '-' && !o->truth)
            o->truth = argv[i];
        else if (argv[i][0] != '-' && !o->folder)
            o->folder = argv[i];
        else
            return false;
    }
    return o->folder != NULL;
}

static int read_truths(struct truth **truths, const char *path)
{
    char line[1024];
    int n = 0, number = 0;
    FILE *f = fopen(path, "r");
    struct truth *list = NULL;
    if (!f) return -1;
    while (fgets(line, sizeof line, f)) {
        struct truth t;
        const int got = parse_truth(&t, line);
        number++;
        if (got == 0) continue;
        struct truth *more = got < 0 ? NULL : realloc(list, (size_t)(n + 1) * sizeof *list);
        if (!more) {
            fprintf(stderr, "demo_judge: %s:%d: not understood\n", path, number);
            free(list);
            fclose(f);
            return -1;
        }
        list = more;
        list[n++] = t;
    }
    fclose(f);
    *truths = list;
    return n;
}

static bool draw_all(const struct options *o, const struct truth *truths, int n)
{
    char path[1024];
    for (int i = 0; i < n; i++) {
        draw(&truths[i]);
        png_path(path, sizeof path, o->folder, truths[i].number);
        if (!write_picture(path)) return false;
    }
    return true;
}

static int judge_all(const struct options *o, const struct truth *truths, int n)
{
    int right[MAX_SHAPES] = {0}, of[MAX_SHAPES] = {0};
    char path[1024];
    for (int i = 0; i < n; i++) {
        const struct truth *t = &truths[i];
        png_path(path, sizeof path, o->folder, truths[o->swap ? (i + 1) % n : i].number);
        if (!read_picture(path)) return 2;
        const char *wrong = judge(t, o->verbose);
        if (wrong) printf("%03d wrong: %s\n", t->number, wrong);
        of[t->n_shapes - 1]++;
        right[t->n_shapes - 1] += wrong == NULL;
    }
    static const char *const words[MAX_SHAPES] = {"one", "two", "three"};
    int all = 0;
    bool pass = true;
    for (int k = 0; k < MAX_SHAPES; k++) {
        all += right[k];
        if (of[k] == 0) continue;
        printf("%s-shape prompts: %d of %d right (%.1f %%)\n", words[k], right[k], of[k],
               100.0 * right[k] / of[k]);
        pass = pass && right[k] >= o->min[k] * of[k];
    }
    printf("all prompts: %d of %d right (%.1f %%)\n", all, n, n ? 100.0 * all / n : 0);
    return pass && n > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct options o;
    struct truth *truths = NULL;
    if (!parse_options(&o, argc, argv)) {
        fprintf(stderr, "usage: demo_judge [--min-one X] [--min-two Y] [--swap] [--verbose] "
                        "[--draw] TRUTH.tsv DIR\n");
        return 2;
    }
    const int n = read_truths(&truths, o.truth);
    if (n < 0) {
        fprintf(stderr, "demo_judge: cannot read %s\n", o.truth);
        return 2;
    }
    const int status = o.draw ? (draw_all(&o, truths, n) ? 0 : 2) : judge_all(&o, truths, n);
    free(truths);
    return status;
}
