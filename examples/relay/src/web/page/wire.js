// The packets, as src/wire.rs has them: big-endian, the kind in the first octet, one in each message.

const JOIN = 3;
const WELCOME = 4;
const REFUSED = 5;
const DATA = 6;
const FORWARDED = 7;
const REPORT = 8;
const ACK = 9;
const LEAVE = 10;

const PACKET_MAX = 1452;
const DATA_HEAD_LEN = 16;
const COOKIE_LEN = 24;

/** Octets of a payload at most. */
export const PAYLOAD_MAX = PACKET_MAX - DATA_HEAD_LEN;

/** By the second octet of a refusal. */
const REFUSALS = [
  "unknown reason",
  "the token cannot be read",
  "the token is not by who has the relay’s key",
  "the token has expired, or lasts for longer than an hour",
  "another client joined with this token",
  "the cookie does not hold",
  "the relay has as many sessions or rooms as it may",
  "the room has as many members as it may",
  "the room is on another shard",
  "the relay remembers as many tokens as it can",
];

function packet(kind, length) {
  const octets = new Uint8Array(length);
  octets[0] = kind;
  return { octets, view: new DataView(octets.buffer) };
}

/** A token's octets from its text; throws where that is no base64 for URLs. */
export function tokenOf(text) {
  const base64 = text.trim().replaceAll("-", "+").replaceAll("_", "/");
  return Uint8Array.from(atob(base64), (letter) => letter.codePointAt(0));
}

/** The cookie stays zero: TCP has proven where we are. */
export function join(token) {
  const { octets } = packet(JOIN, 4 + COOKIE_LEN + token.length);
  octets.set(token, 4 + COOKIE_LEN);
  return octets;
}

export function data(session, sequence, payload) {
  const { octets, view } = packet(DATA, DATA_HEAD_LEN + payload.length);
  view.setBigUint64(4, session);
  view.setUint32(12, sequence);
  octets.set(payload, DATA_HEAD_LEN);
  return octets;
}

/** `echo` is the newest ack's stamp, held for so many microseconds; 0n before the first. */
export function report(session, { buffered, underruns, heldMicros, echo }) {
  const { octets, view } = packet(REPORT, 28);
  view.setUint16(2, buffered);
  view.setBigUint64(4, session);
  view.setUint32(12, underruns);
  view.setUint32(16, heldMicros);
  view.setBigUint64(20, echo);
  return octets;
}

export function leave(session) {
  const { octets, view } = packet(LEAVE, 12);
  view.setBigUint64(4, session);
  return octets;
}

/** What the relay sent; undefined where it is nothing we know. */
export function parse(buffer) {
  const view = new DataView(buffer);
  switch (`${view.byteLength > 0 ? view.getUint8(0) : 0} ${view.byteLength}`) {
    case `${WELCOME} 12`:
      return { kind: "welcome", member: view.getUint16(2), session: view.getBigUint64(4) };
    case `${REFUSED} 4`:
      return { kind: "refused", reason: REFUSALS[view.getUint8(1)] ?? REFUSALS[0] };
    case `${ACK} 20`:
      return { kind: "ack", stamp: view.getBigUint64(12) };
  }
  if (view.byteLength >= DATA_HEAD_LEN && view.getUint8(0) === FORWARDED) {
    return { kind: "forwarded", sender: view.getUint16(2), sequence: view.getUint32(12), payload: new Uint8Array(buffer, DATA_HEAD_LEN) };
  }
  return undefined;
}
