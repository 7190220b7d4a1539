// A member of a room: says what is typed, shows what others say, and reports each second how it fares.

import * as wire from "./wire.js";

/** Lines of the log; older ones go. */
const LINES_MAX = 200;
/** Members shown; a room has no more. */
const MEMBERS_MAX = 64;
/** A member that says nothing for so long is not shown any more: pages say something, if empty, each second. */
const GONE_AFTER_MS = 3000;
/** What may wait for the network. Beyond, a message is not taken. */
const BUFFERED_MAX = 65_536;

const find = (id) => document.getElementById(id);
const [standing, joinForm, token, leaveButton, sayForm, message, sayButton, log, members, count, roundTrip] = [
  "standing", "join", "token", "leave", "say", "message", "say-button", "log", "members", "count", "round-trip",
].map(find);

/** While joining and joined. */
let socket;
/** While joined. */
let call;
const second = new Worker("./second.js");

function stand(kind, text) {
  standing.dataset.kind = kind;
  standing.textContent = text;
}

function note(kind, who, text) {
  const line = document.createElement("li");
  line.className = kind;
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  const name = document.createElement("b");
  name.textContent = who;
  const words = document.createElement("span");
  words.textContent = text;
  line.append(time, " ", name, " ", words);
  // Who reads further up is left there.
  const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.append(line);
  while (log.childElementCount > LINES_MAX) log.firstElementChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

function controls() {
  token.disabled = joinForm.querySelector("button").disabled = socket !== undefined;
  message.disabled = sayButton.disabled = call === undefined;
  leaveButton.disabled = socket === undefined;
}

function showMembers() {
  const shown = [];
  if (call !== undefined) {
    shown.push({ key: "own", text: `member ${call.member} (you)` });
    for (const [member, { packets }] of [...call.others].sort(([a], [b]) => a - b)) {
      shown.push({ key: `m${member}`, text: `member ${member}`, packets });
    }
  }
  members.replaceChildren(
    ...shown.map(({ key, text, packets }) => {
      const item = document.createElement("li");
      item.dataset.member = key;
      const name = document.createElement("span");
      name.textContent = text;
      item.append(name);
      if (packets !== undefined) {
        const figure = document.createElement("span");
        figure.className = "figure";
        figure.textContent = `${packets} ${packets === 1 ? "packet" : "packets"}`;
        item.append(figure);
      }
      return item;
    }),
  );
  const text = shown.length === 0 ? "nobody yet" : `${shown.length} here`;
  // What is said aloud is said when it changes.
  if (count.textContent !== text) count.textContent = text;
}

function send(octets) {
  if (socket.bufferedAmount > BUFFERED_MAX) return false;
  socket.send(octets);
  return true;
}

function say(payload) {
  const sent = send(wire.data(call.session, call.sequence, payload));
  call.sequence = (call.sequence + 1) >>> 0;
  return sent;
}

const HANDLERS = {
  welcome({ member, session }) {
    call = { member, session, sequence: 0, others: new Map(), ack: undefined, reportedAt: undefined };
    token.value = "";
    stand("joined", `joined as member ${member}`);
    note("ours", "you", `joined as member ${member}`);
    controls();
    showMembers();
    message.focus();
  },
  refused({ reason }) {
    stand("refused", `refused: ${reason}`);
    note("wrong", "relay", `refused: ${reason}`);
  },
  ack({ stamp }) {
    const now = performance.now();
    if (call === undefined) return;
    call.ack = { stamp, at: now };
    if (call.reportedAt !== undefined) roundTrip.textContent = `${(now - call.reportedAt).toFixed(1)} ms`;
  },
  forwarded({ sender, payload }) {
    if (call === undefined) return;
    const known = call.others.get(sender);
    if (known === undefined && call.others.size >= MEMBERS_MAX) return;
    call.others.set(sender, { packets: (known?.packets ?? 0) + 1, heardAt: performance.now() });
    if (payload.length > 0) note("theirs", `member ${sender}`, new TextDecoder().decode(payload));
    if (known === undefined) showMembers();
  },
};

second.addEventListener("message", () => {
  if (call === undefined) return;
  const now = performance.now();
  const heldMicros = call.ack === undefined ? 0 : Math.min(Math.round((now - call.ack.at) * 1000), 0xffff_ffff);
  // Nothing is played here, so that nothing waits to be.
  const sent = send(wire.report(call.session, { buffered: 0, underruns: 0, heldMicros, echo: call.ack?.stamp ?? 0n }));
  if (sent) call.reportedAt = now;
  say(new Uint8Array());
  for (const [member, { heardAt }] of call.others) {
    if (now - heardAt > GONE_AFTER_MS) {
      call.others.delete(member);
      note("theirs", `member ${member}`, "is gone");
    }
  }
  showMembers();
});

joinForm.addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket !== undefined) return;
  let octets;
  try {
    octets = wire.tokenOf(token.value);
  } catch {
    return stand("refused", "this is no token: it is base64 for URLs, as example-relay token prints it");
  }
  stand("joining", "joining");
  const own = new WebSocket(new URL("join", location.href.replace(/^http/, "ws")));
  socket = own;
  own.binaryType = "arraybuffer";
  own.addEventListener("open", () => own.send(wire.join(octets)));
  own.addEventListener("message", ({ data }) => {
    const packet = wire.parse(data);
    if (packet !== undefined) HANDLERS[packet.kind](packet);
  });
  own.addEventListener("close", ({ code, reason }) => {
    const why = reason || (code === 1006 ? "the connection was lost, or not let in" : "");
    if (standing.dataset.kind !== "refused") stand("left", why === "" ? "not joined" : `not joined: ${why}`);
    if (call !== undefined) note("ours", "you", why === "" ? "left" : `left: ${why}`);
    socket = call = undefined;
    roundTrip.textContent = "–";
    controls();
    showMembers();
    token.focus();
  });
  controls();
});

sayForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const payload = new TextEncoder().encode(message.value);
  if (call === undefined || payload.length === 0) return;
  if (payload.length > wire.PAYLOAD_MAX) return note("wrong", "you", `${payload.length} octets are more than the ${wire.PAYLOAD_MAX} of a packet`);
  if (!say(payload)) return note("wrong", "you", "not sent: the network does not keep up");
  note("ours", "you", message.value);
  message.value = "";
});

function goodbye() {
  if (socket === undefined) return;
  if (call !== undefined) socket.send(wire.leave(call.session));
  socket.close(1000);
}
leaveButton.addEventListener("click", goodbye);
// A page that is closed, or left for another, says so.
addEventListener("pagehide", goodbye);

// A link may bring a token behind its #: that part is not sent to anybody, and not kept in the history.
const brought = new URLSearchParams(location.hash.slice(1)).get("token");
if (brought !== null) {
  history.replaceState(null, "", location.pathname);
  token.value = brought;
}
stand("left", "not joined");
controls();
showMembers();
