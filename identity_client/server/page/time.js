// Times as people read them. The server's clock counts: the browser may run elsewhere.

let skew = 0;

export function setServerTime(date) {
  const difference = Date.parse(date) - Date.now();
  skew = Math.abs(difference) > 2000 ? difference : 0; // HTTP dates are whole seconds
}

export function now() {
  return (Date.now() + skew) / 1000;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

export function duration(seconds) {
  const rounded = seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds);
  if (rounded < 100) return `${rounded} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.round(seconds / 360) / 10} h`;
}

export function countdown(seconds) {
  const whole = Math.floor(Math.abs(seconds));
  const minutes = String(Math.floor(whole / 60) % 60).padStart(2, "0");
  const rest = `${minutes}:${String(whole % 60).padStart(2, "0")}`;
  return whole < 3600 ? rest : `${Math.floor(whole / 3600)}:${rest}`;
}
