/** A range of one's own: two moments on the clock that times are shown in. */

import { byId, setText } from "./dom.ts";
import type { Place } from "./place.ts";
import { between, dateTime, parseDateTime, resolve, SPAN_MIN, zone } from "./time.ts";

export function wireCustom(place: Place, now: () => number): void {
  const details = byId<HTMLDetailsElement>("custom");
  const [from, to] = [byId<HTMLInputElement>("custom-from"), byId<HTMLInputElement>("custom-to")];
  const said = byId("custom-said");
  details.addEventListener("toggle", () => {
    if (!details.open) return;
    const [begin, end] = resolve(place.view.range, now());
    from.value = dateTime(begin, place.utc, "T");
    to.value = dateTime(end, place.utc, "T");
    setText(said, `in ${zone(now(), place.utc)}`);
  });
  const show = (): void => {
    const [begin, end] = [parseDateTime(from.value, place.utc), parseDateTime(to.value, place.utc)];
    if (begin === null || end === null) return setText(said, "both moments are needed");
    if (end - begin < SPAN_MIN) return setText(said, `the end has to be a minute after the begin at least`);
    if (begin >= now()) return setText(said, "the begin is yet to come");
    details.open = false;
    place.go({ range: between(begin, Math.min(end, now()), now()) });
  };
  byId("custom-go").addEventListener("click", show);
  for (const input of [from, to]) {
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") show();
    });
  }
}
