// Requests to the service. Every request sends the token, if the service needs one.

/** An error that the service answered: what is wrong, and a hint. */
export class ServiceError extends Error {
  constructor(status, content) {
    super(content.error || `The service answered with status ${status}.`);
    this.status = status;
    this.hint = content.hint || "";
    this.missing = content.missing || [];
  }
}

/** Ask the user for the token of the service. */
function askToken() {
  const dialog = document.getElementById("ask-token");
  const input = document.getElementById("token");
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", input.value);
      resolve();
    }, { once: true });
  });
}

let asking = null;

/** Send a request, and return its response if it succeeded. */
export async function request(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ServiceError(0, { error: "The service does not answer.", hint: "Check that it still runs." });
  }
  if (response.status === 401) {
    asking ??= askToken().finally(() => { asking = null; });
    await asking;
    return request(path, options);
  }
  if (!response.ok) {
    throw new ServiceError(response.status, await response.json().catch(() => ({})));
  }
  return response;
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const getBlob = async (path) => (await request(path)).blob();

/** Offer content as a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Show an image that needs the token. Its address is released when it is loaded. */
export async function showImage(element, path) {
  const address = URL.createObjectURL(await getBlob(path));
  element.onload = () => URL.revokeObjectURL(address);
  element.src = address;
}
