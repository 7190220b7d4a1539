// Tells the page that a second has passed. A browser slows down the timers of a page nobody looks at, to one in a
// minute, and a relay that hears nothing for so long ends the session; those of a worker it leaves alone.
setInterval(() => postMessage(null), 1000);
