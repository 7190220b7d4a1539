import "./ask.ts";
import "./level.ts";
import "./mesh.ts";
import "./panels.ts";
import "./series.ts";
import "./spots.ts";
import "./time.ts";
import "./view.ts";
