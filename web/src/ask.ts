/** Questions to the relay, and its refusals in words. */

export type Answer<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly status: number; readonly why: string };

/** What a refusal means to who looks. `said` is what the relay answered: a line that says what would be right. */
export function refusalInWords(status: number, said: string): string {
  const line = said.trim().split("\n")[0]?.slice(0, 300) ?? "";
  switch (status) {
    case 0:
      return "the relay does not answer";
    case 401:
      return "the relay asks who you are: load the page again and sign in";
    case 403:
      return `the relay does not allow it${line ? `: ${line}` : ""}`;
    default:
      return line || `the relay answered ${status}`;
  }
}

/** A GET of a route of this relay. Never throws but for an abort, which the caller asked for. */
export async function ask<T>(path: string, signal?: AbortSignal): Promise<Answer<T>> {
  try {
    const response = await fetch(path, { headers: { accept: "application/json" }, ...(signal ? { signal } : {}) });
    if (!response.ok) {
      return { ok: false, status: response.status, why: refusalInWords(response.status, await response.text()) };
    }
    return { ok: true, value: (await response.json()) as T };
  } catch (error) {
    if (signal?.aborted) throw error;
    return { ok: false, status: 0, why: refusalInWords(0, "") };
  }
}
