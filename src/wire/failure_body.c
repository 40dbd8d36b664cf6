/* u8 code | u8 second | u16 0 | u32 errno | str message | str traceback | perhaps str
 * value */
#include "wire/failure_body.h"

#include "base/origin.h"
#include <errno.h>

int failure_body_encode(const struct failure_body *f, struct buf *out) {
  int r = buf_put_u8(out, f->code);
  if (r == 0)
    r = buf_put_u8(out, f->second);
  if (r == 0)
    r = buf_put_u16(out, 0);
  if (r == 0)
    r = buf_put_u32(out, f->error);
  if (r == 0)
    r = buf_put_str(out, f->message, f->nmessage);
  if (r == 0)
    r = buf_put_str(out, f->traceback, f->ntraceback);
  if (r == 0 && f->value)
    r = buf_put_str(out, f->value, f->nvalue);
  return r;
}

int failure_body_decode(struct failure_body *ret, const void *body, size_t length) {
  struct reader r;
  struct failure_body f = {0};
  reader_init(&r, body, length);
  f.code = reader_u8(&r);
  f.second = reader_u8(&r);
  reader_u16(&r);
  f.error = reader_u32(&r);
  f.message = reader_str(&r, &f.nmessage);
  f.traceback = reader_str(&r, &f.ntraceback);
  if (r.ok && reader_left(&r) > 0)
    f.value = reader_str(&r, &f.nvalue);
  if (!r.ok || reader_left(&r) > 0 || f.nmessage > FAILURE_TEXT_MAX ||
      f.ntraceback > FAILURE_TEXT_MAX || f.nvalue > FAILURE_VALUE_MAX)
    return ORIGINAL(-EPROTO);
  *ret = f;
  return 0;
}
