/*
 * rows.c - taking the store's rows apart and putting them together.
 *
 * The rows were written by this library, but perhaps by another process:
 * every length is checked against what is there before it is used, so that a
 * damaged file gives ZP_ECORRUPT above, not a crash. Fields are copied out
 * with memcpy, because LMDB aligns to two bytes only.
 */
#include "core/rows.h"

#include <string.h>

static unsigned char *
put_be64(unsigned char *p, uint64_t value)
{
    for (int shift = 56; shift >= 0; shift -= 8)
        *p++ = (unsigned char)(value >> shift);
    return p;
}

static unsigned char *
put_be32(unsigned char *p, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        *p++ = (unsigned char)(value >> shift);
    return p;
}

static size_t
put_names(void *buffer, char kind, const char *ns, const char *key)
{
    unsigned char *p = buffer;
    size_t ns_size = strlen(ns) + 1;
    size_t key_size = strlen(key);
    *p++ = (unsigned char)kind;
    memcpy(p, ns, ns_size);
    memcpy(p + ns_size, key, key_size);
    return 1 + ns_size + key_size;
}

size_t
zp__rowkey_cur(void *buffer, const char *ns, const char *key)
{
    return put_names(buffer, 'k', ns, key);
}

size_t
zp__rowkey_lease(void *buffer, const char *ns, const char *key)
{
    return put_names(buffer, 'b', ns, key);
}

size_t
zp__rowkey_log(void *buffer, uint64_t revision, uint64_t n)
{
    unsigned char *p = buffer;
    *p++ = 'l';
    put_be32(p, (uint32_t)(revision & (n - 1)));
    return 1 + 4;
}

size_t
zp__rowkey_chunk(void *buffer, uint64_t revision, uint32_t chunk)
{
    unsigned char *p = buffer;
    *p++ = 'x';
    put_be32(put_be64(p, revision), chunk);
    return 1 + 8 + 4;
}

size_t
zp__rowkey_outside(void *buffer, const zp__outside *outside)
{
    unsigned char *p = buffer;
    *p++ = 'o';
    put_be32(put_be64(p, outside->revision), outside->rank);
    return 1 + 8 + 4;
}

size_t
zp__rowkey_ns(void *buffer, const char *ns)
{
    unsigned char *p = buffer;
    size_t size = strlen(ns);
    *p++ = 'n';
    memcpy(p, ns, size);
    return 1 + size;
}

size_t
zp__rowkey_record(void *buffer, uint64_t id, bool ended)
{
    unsigned char *p = buffer;
    *p++ = ended ? 'q' : 'p';
    put_be64(p, id);
    return 1 + 8;
}

bool
zp__rowkey_is_record(const void *key, size_t size, bool ended)
{
    return size == 1 + 8 && *(const char *)key == (ended ? 'q' : 'p');
}

uint64_t
zp__rowkey_u64(const void *key)
{
    const unsigned char *p = (const unsigned char *)key + 1;
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | p[i];
    return value;
}

bool
zp__cur_parse(const void *data, size_t size, zp__cur_row *ret)
{
    size_t rest = size - sizeof ret->head;

    if (size < sizeof ret->head)
        return false;
    memcpy(&ret->head, data, sizeof ret->head);
    ret->image = NULL;
    data = (const char *)data + sizeof ret->head;
    if (ret->head.flags & ZP__ROW_DELETED)
        return true;
    if (ret->head.flags & ZP__ROW_OUTSIDE) {
        if (rest != sizeof ret->outside)
            return false;
        memcpy(&ret->outside, data, sizeof ret->outside);
        return true;
    }
    ret->image = data;
    return rest == ret->head.size;
}

bool
zp__lease_names(const void *rowkey, size_t size, char *ret_ns, char *ret_key)
{
    const char *ns = (const char *)rowkey + 1;
    const char *end =
        size > 1 && *(const char *)rowkey == 'b' ? memchr(ns, 0, size - 1) : 0;
    size_t ns_size, key_size;

    if (end == NULL)
        return false;
    ns_size = (size_t)(end - ns);
    key_size = size - 1 - ns_size - 1;
    if (ns_size == 0 || ns_size > ZP__NS_MAX || key_size == 0 ||
        key_size > ZP__KEY_MAX || memchr(end + 1, 0, key_size) != NULL)
        return false;
    memcpy(ret_ns, ns, ns_size + 1);
    memcpy(ret_key, end + 1, key_size);
    ret_key[key_size] = '\0';
    return true;
}

bool
zp__lease_parse(const void *data, size_t size, zp__lease *ret)
{
    if (size != sizeof *ret)
        return false;
    memcpy(ret, data, sizeof *ret);
    return ret->holder.pid >= 0 && ret->deadline_ns >= 0 && ret->wall_ns >= 0 &&
           (ret->holder.pid > 0 || ret->deadline_ns > 0);
}

int
zp__chunk_length(const void *chunk, size_t size)
{
    uint32_t n;

    if (size < sizeof n)
        return -1;
    memcpy(&n, chunk, sizeof n);
    return n <= ZP__CHUNK && size >= sizeof n * (1 + (size_t)n) ? (int)n : -1;
}

bool
zp__chunk_change(const void *chunk, size_t size, uint32_t i, zp__chg_row *ret)
{
    const char *base = chunk;
    int n = zp__chunk_length(chunk, size);
    uint32_t offset;
    size_t rest, names;

    if (n < 0 || i >= (uint32_t)n)
        return false;
    memcpy(&offset, base + sizeof offset * (1 + (size_t)i), sizeof offset);
    if (offset > size || size - offset < sizeof ret->head)
        return false;
    memcpy(&ret->head, base + offset, sizeof ret->head);
    rest = size - offset - sizeof ret->head;
    names = (size_t)ret->head.ns_size + ret->head.key_size;
    ret->ns = base + offset + sizeof ret->head;
    ret->key = ret->ns + ret->head.ns_size;
    if (ret->head.ns_size < 2 || ret->head.key_size < 2 || rest < names ||
        ret->key[-1] != '\0' || ret->ns[names - 1] != '\0')
        return false;
    ret->image = NULL;
    if (ret->head.flags & (ZP_CREATED | ZP__ROW_OUTSIDE | ZP__ROW_LOST))
        return true;
    ret->image = ret->ns + names;
    return rest - names >= ret->head.size;
}

int
zp__chg_compare(const char *ns_a, const char *key_a, const char *ns_b,
                const char *key_b)
{
    int order = strcmp(ns_a, ns_b);
    return order != 0 ? order : strcmp(key_a, key_b);
}

int
zp__chunk_find(const void *chunk, size_t size, const char *ns, const char *key,
               zp__chg_row *ret)
{
    int low = 0;
    int high = zp__chunk_length(chunk, size);

    while (low < high) {
        int middle = low + (high - low) / 2;
        if (!zp__chunk_change(chunk, size, (uint32_t)middle, ret))
            return -1;
        int order = zp__chg_compare(ns, key, ret->ns, ret->key);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1 - low;
}

size_t
zp__chg_size(const char *ns, const char *key, size_t inline_size)
{
    return sizeof(zp__chg) + strlen(ns) + 1 + strlen(key) + 1 + inline_size;
}

size_t
zp__chg_write(void *out, const zp__chg *head, const char *ns, const char *key,
              const void *image, size_t inline_size)
{
    zp__chg copy = *head;
    char *p = out;

    copy.ns_size = (uint16_t)(strlen(ns) + 1);
    copy.key_size = (uint16_t)(strlen(key) + 1);
    memcpy(p, &copy, sizeof copy);
    p += sizeof copy;
    memcpy(p, ns, copy.ns_size);
    p += copy.ns_size;
    memcpy(p, key, copy.key_size);
    p += copy.key_size;
    if (inline_size > 0)
        memcpy(p, image, inline_size);
    return (size_t)(p - (char *)out) + inline_size;
}
