#include "kernels/base/json.h"

#include "kernels/base/file.h"

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return names[json_typeof(value)];
}

nb_status nb_json_parse(const char *path, const char *text, size_t bytes, json_t **out)
{
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root)
        return nb_fail(NB_E_DATA, "%s: not valid JSON: line %d, column %d: %s", path,
                       error.line, error.column, error.text);
    *out = root;
    return NB_OK;
}

nb_status nb_json_load(const char *path, json_t **out)
{
    nb_buffer *file;
    NB_TRY(nb_file_map(path, &file));
    const char *text = nb_buffer_data(file);
    nb_status status = nb_json_parse(path, text ? text : "", nb_buffer_bytes(file), out);
    nb_buffer_unref(file);
    return status;
}

nb_status nb_json_load_object(const char *path, json_t **out)
{
    json_t *json;
    NB_TRY(nb_json_load(path, &json));
    if (!json_is_object(json)) {
        nb_status status =
            nb_fail(NB_E_DATA, "%s: wanted an object, found %s", path, type_name(json));
        json_decref(json);
        return status;
    }
    *out = json;
    return NB_OK;
}

/* The value of a key, NULL when it is missing or null. */
static const json_t *find(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static nb_status wrong_type(const char *path, const char *key, const char *wanted,
                            const json_t *found)
{
    return nb_fail(NB_E_DATA, "%s: %s: wanted %s, found %s", path, key, wanted,
                   type_name(found));
}

static nb_status check_int(const char *path, const char *key, const json_t *value, int64_t min,
                           int64_t max, int64_t *out)
{
    if (!json_is_integer(value)) return wrong_type(path, key, "an integer", value);
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return nb_fail(NB_E_DATA, "%s: %s: wanted %lld to %lld, found %lld", path, key,
                       (long long)min, (long long)max, (long long)number);
    *out = number;
    return NB_OK;
}

nb_status nb_json_get_int(const char *path, const json_t *object, const char *key,
                          int64_t fallback, int64_t min, int64_t max, int64_t *out)
{
    const json_t *value = find(object, key);
    if (value) return check_int(path, key, value, min, max, out);
    *out = fallback;
    return NB_OK;
}

nb_status nb_json_get_real(const char *path, const json_t *object, const char *key,
                           double fallback, double min, double max, double *out)
{
    const json_t *value = find(object, key);
    if (value && !json_is_number(value)) return wrong_type(path, key, "a number", value);
    double number = value ? json_number_value(value) : fallback;
    if (value && !(number >= min && number <= max))
        return nb_fail(NB_E_DATA, "%s: %s: wanted %g to %g, found %g", path, key, min, max,
                       number);
    *out = number;
    return NB_OK;
}

nb_status nb_json_get_bool(const char *path, const json_t *object, const char *key,
                           int fallback, int *out)
{
    const json_t *value = find(object, key);
    if (value && !json_is_boolean(value)) return wrong_type(path, key, "true or false", value);
    *out = value ? json_is_true(value) : fallback;
    return NB_OK;
}

nb_status nb_json_get_string(const char *path, const json_t *object, const char *key,
                             const char *fallback, const char **out)
{
    const json_t *value = find(object, key);
    if (value && !json_is_string(value)) return wrong_type(path, key, "a string", value);
    *out = value ? json_string_value(value) : fallback;
    return NB_OK;
}

nb_status nb_json_get_ints(const char *path, const json_t *object, const char *key, int64_t min,
                           int64_t max, int64_t *out, int capacity, int *n)
{
    const json_t *value = find(object, key);
    if (!value) {
        *n = -1;
        return NB_OK;
    }
    if (!json_is_array(value)) return wrong_type(path, key, "an array of integers", value);
    size_t count = json_array_size(value);
    if (count > (size_t)capacity)
        return nb_fail(NB_E_DATA, "%s: %s: wanted at most %d entries, found %zu", path, key,
                       capacity, count);
    for (size_t i = 0; i < count; i++)
        NB_TRY(check_int(path, key, json_array_get(value, i), min, max, &out[i]));
    *n = (int)count;
    return NB_OK;
}
